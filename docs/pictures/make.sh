#!/bin/sh
# Makes the pictures in this directory: a terminal with commands that really run, on twenty hosts that are all this machine. Needs
# bin/mitogend, tmux and Go; freeze draws what tmux has captured.
set -eu
cd "$(dirname "$0")/../.."
pictures=$PWD/docs/pictures
command -v tmux >/dev/null || { echo 'make pictures wants tmux' >&2; exit 2; }
dir=$(mktemp -d /tmp/mitogend-pictures.XXXXXX)
export PATH="$PWD/bin:$PATH" XDG_RUNTIME_DIR="$dir/run" XDG_STATE_HOME="$dir/state" MITOGEND_INVENTORY="$dir/hosts"
mkdir -m 700 "$XDG_RUNTIME_DIR"
mux() { tmux -L "pictures-$$" -f /dev/null "$@"; }
finish() {
	status=$?
	mux kill-server 2>/dev/null || :
	mitogend stop -q 2>/dev/null || :
	rm -rf "$dir"
	exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
GOBIN=$dir go install github.com/charmbracelet/freeze@v0.2.2

{
	echo '[web]'
	i=1
	while [ $i -le 20 ]; do printf 'web%02d mitogend_target=local:?connect_timeout=%d\n' $i $((100 + i)); i=$((i+1)); done
} >"$MITOGEND_INVENTORY"
cd "$dir"
mitogend serve >"$dir/log" 2>&1 &
mux new-session -d -x 96 -y 40 'exec env PS1="\$ " sh'
mux set-option -g status off

key() { mux send-keys "$@"; }
# shows PATTERN: waits until it is on the screen.
shows() {
	for waited in $(seq 300); do
		if mux capture-pane -p | grep -Eq -- "$1"; then return; fi
		sleep 0.1
	done
	mux capture-pane -p >&2
	echo "never on the screen: $1" >&2
	exit 1
}
# begin ROWS: an empty screen.
begin() {
	mux resize-window -x 96 -y "$1"
	key clear Enter
	mux clear-history
	shows '^\$ *$'
}
# picture NAME: the current screen.
picture() {
	mux capture-pane -e -p >"$dir/screen"
	"$dir/freeze" -l ansi --window --padding 20 --font.family 'ui-monospace, monospace' --font.size 13 -o "$pictures/$1.svg" "$dir/screen" >/dev/null
}

begin 16
key 'mitogend call -q -H web os:getpid >/dev/null; clear' Enter # connects them
shows '^\$ *$'
key "mitogend exec -b -H web --shell 'uname -sm; ! echo \$MITOGEND_TARGET | grep web.7'" Enter
shows '18 ok'
sleep 0.3
picture exec
begin 5
key "mitogend exec -H web --shell 'sleep \$((\$\$ % 9 + 2))'" Enter
shows '[1-9][0-9]* of 20 targets done'
picture progress
shows '20 ok'
begin 18
key 'mitogend repl -H web' Enter
shows '20 targets>>>'
key 'import os, platform' Enter
key 'platform.python_implementation()' Enter
shows 'CPython'
key 'os.environ["MITOGEND_TARGET"] > "web15"' Enter
shows 'True'
key 'os.getload' Tab
shows 'os.getloadavg'
picture repl
key C-c C-d
shows '^\$ *$'
begin 22
mitogend exec -q -p 20 -H 'web0*' -- tail -f /etc/hostname >"$dir/out" 2>&1 &
mitogend call -q -H web20 time:sleep 60 >"$dir/out" 2>&1 &
key 'mitogend top --every 500ms' Enter
shows 'RUNS'
shows 'time:sleep'
key Tab
shows 'what runs'
key Down Down
sleep 0.5
picture top
key q
kill %2 %3 2>/dev/null || :
