#!/bin/sh
# A tour of everyday tasks, on twenty ssh hosts. They are all this machine: the tour starts an ssh server on loopback addresses, and
# ends it again. All files are written to a temporary directory. On a terminal, tasks 11 and 12 wait for you to type.
#
#     make build
#     PATH=$PWD/bin:$PATH examples/tour.sh
set -eu

dir=$(mktemp -d "${TMPDIR:-/tmp}/mitogend-tour-XXXXXX")
export XDG_RUNTIME_DIR="$dir/run" MITOGEND_DAEMON=
mkdir -m 700 "$XDG_RUNTIME_DIR"
sshd=

finish() {
    status=$?
    trap '' HUP INT TERM
    mitogend stop -q 2>/dev/null || :
    [ -z "$sshd" ] || kill $sshd
    rm -rf "$dir"
    exit $status
}
trap finish EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

task() { printf '\n== %s\n\n' "$1"; }
# Shows the command line, and runs it.
show() { printf '$ mitogend %s\n' "$*"; mitogend "$@"; }

# An ssh server on 127.0.0.$1 to 127.0.0.$2.
listen() {
    {
        echo "Port $port"
        for i in $(seq "$1" "$2"); do echo "ListenAddress 127.0.0.$i"; done
        echo "HostKey $dir/ssh/host"
        echo "AuthorizedKeysFile $dir/ssh/authorized"
        echo 'PidFile none'
        echo 'StrictModes no'
        echo 'UsePAM no'
        echo 'PasswordAuthentication no'
        echo 'PermitRootLogin prohibit-password'
        echo 'MaxStartups 100'
    } >"$dir/ssh/config"
    "$server" -D -e -f "$dir/ssh/config" 2>"$dir/ssh/log" &
    pid=$!
    sshd="$sshd $pid"
    for waited in $(seq 50); do
        if ssh-keyscan -p "$port" -T 1 "127.0.0.$2" 2>/dev/null | grep -q ed25519; then return 0; fi
        kill -0 "$pid" 2>/dev/null || return 1
        sleep 0.1
    done
    return 1
}

# Twenty hosts, web01 to web20, and one that is reached through web01.
serve_ssh() {
    server=$(command -v sshd || command -v /usr/sbin/sshd) || { echo 'tour: sshd is not installed' >&2; exit 2; }
    if [ "$(id -u)" = 0 ] && [ ! -d /run/sshd ]; then
        echo 'tour: as root, sshd needs the directory /run/sshd; make it, or run the tour as another user' >&2
        exit 2
    fi
    mkdir -m 755 "$dir/ssh"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/host"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/ssh/key"
    cp "$dir/ssh/key.pub" "$dir/ssh/authorized"
    # Two servers, since one listens on 16 addresses at most.
    for attempt in 1 2 3 4 5; do
        port=$((20000 + ($$ * 7 + attempt * 101) % 30000))
        if listen 1 11 && listen 12 21; then break; fi
        [ -z "$sshd" ] || kill $sshd 2>/dev/null || :
        sshd=
    done
    if [ -z "$sshd" ]; then
        echo 'tour: sshd does not start:' >&2
        cat "$dir/ssh/log" >&2
        exit 1
    fi
    echo "[127.0.0.*]:$port $(cut -d' ' -f1,2 "$dir/ssh/host.pub")" >"$dir/ssh/known"
    {
        echo 'all:'
        echo '  vars:'
        echo "    ansible_port: $port"
        echo "    ansible_ssh_private_key_file: $dir/ssh/key"
        echo "    ansible_ssh_common_args: -F none -o UserKnownHostsFile=$dir/ssh/known -o GlobalKnownHostsFile=none"
        echo 'web:'
        echo '  vars: {site: north}'
        echo '  hosts:'
        for i in $(seq 20); do printf '    web%02d: {ansible_host: 127.0.0.%d, weight: %d}\n' "$i" "$i" $((i % 3)); done
        echo 'behind:'
        echo '  hosts:'
        echo '    inner: {ansible_host: 127.0.0.21, mitogen_via: web01}'
    } >"$dir/hosts.yaml"
}

serve_ssh
export MITOGEND_INVENTORY="$dir/hosts.yaml"

# Programs and functions from the same directory share connections.
cd "$dir"

# Files to copy, and where to. All hosts are the same machine here, so each has a directory of its own.
there="$dir/hosts/{target}"
mkdir -p site/css logs
echo 'port = 8080' >app.conf
echo '<h1>hello</h1>' >site/index.html
echo 'h1 { color: teal }' >site/css/main.css

# Connections stay open while a daemon runs.
mitogend serve --log-level error 2>daemon.log &
daemon=$!
until mitogend ps >/dev/null 2>&1; do
    kill -0 $daemon 2>/dev/null || { echo 'tour: the daemon does not start:' >&2; cat daemon.log >&2; exit 1; }
    sleep 0.1
done

task '1. uptime everywhere'
show exec -H web -- uptime

task '2. Equal answers, gathered'
show exec -b -H web -- uname -r

task '3. Copy a file to all'
show put -H web app.conf "$there/etc/"
show exec -b -H web --shell "cat $there/etc/app.conf"

task '4. Synchronize a directory; the second time there is nothing to send'
show sync -H web site "$there/www"
show sync -H web --dry-run site "$there/www"
show exec -b -H web --chdir "$there/www" -- find . -type f

task '5. Fetch a log from all'
show exec -H web --shell "mkdir -p $there/log && echo 'started on {target}' >$there/log/app.log"
show get -H web "$there/log/app.log" logs
cat logs/*/app.log

task '6. A rolling restart, four at a time, that stops at the second failure'
show exec -q -H web03,web06 --shell "touch $there/broken"
show exec -H web --batch 4 --max-fail 1 --failed failed --shell "test ! -e $there/broken && echo restarted" || echo "(status $?)"

task '7. Again on those that failed or were not begun'
show exec -q -H web03,web06 --shell "rm $there/broken"
show exec -b -H @failed --shell "test ! -e $there/broken && echo restarted"

task '8. Facts as a table'
show facts -H web --table system machine cpus python

task '9. Call a function of the standard library'
show call -b -H web --select .system platform:uname

task '10. Run a program, with stdin for all and the variables of each host'
cat >count.py <<'end'
import sys
import mitogend

v = mitogend.host_vars()
print('%d words for %s, weight %d' % (len(sys.stdin.read().split()), v['site'], v['weight']))
end
printf 'one two three' | show run -b -H web count.py

if [ -t 0 ] && [ -t 1 ]; then
    task "11. Python's prompt there (Ctrl-D ends it)"
    show repl -H web01

    task '12. top, through two hops, and of the daemon itself (q ends each)'
    show exec -t -H inner -- top
    show top
else
    task '11. and 12. need a terminal'
fi

task 'The connections'
show ps | head -n 5
show close web01 'web*'
