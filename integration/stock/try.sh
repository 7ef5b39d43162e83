#!/bin/sh
# Tries a Mitogen tree, which has the package mitogen, with mitogend of $PATH:
#
#     integration/stock/try.sh DIR [PYTHON...]
#
# For each interpreter (python3 if none is named) the programs of ../testdata/stock run under that Mitogen's own master and under
# `mitogend master`, and have to print the same. kinds.py, which checks its results itself, runs under `mitogend master` and as a
# client of `mitogend serve`. Each gets one line; the status is 1 if anything differs. A program that fails under Mitogen's own master
# is not compared. All files are written to a temporary directory.
set -u
tree=$(cd "$1" && pwd) || exit 2
shift
[ $# -gt 0 ] || set -- python3
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
cp "$here"/../testdata/stock/*.py "$here/kinds.py" "$work"
printf "VALUE = 'of a module'\n" >"$work/stockhelper.py"
mkdir "$work/stockdata"
: >"$work/stockdata/__init__.py"
printf data >"$work/stockdata/data.txt"
PYTHONPATH=$tree
export PYTHONPATH
mkdir -m 700 "$work/run"
mitogend serve --listen "$work/run" 2>"$work/serve.log" &
server=$!

# These differ from run to run, or between Pythons: process ids, command lines, the wording of an OSError.
clean() { sed -E 's/(local|fork)\.[0-9]+/\1/g; s/u?["'\'']Child start failed.*|Child start failed.*/Child start failed/; s/Command was: .*//' "$1"; }

bad=0
report() { # what, status
    [ "$2" = 0 ] && echo "$python $1: ok" && return
    echo "$python $1: FAILED"
    bad=1
}

for python; do
    for program in "$work"/*.py; do
        name=$(basename "$program" .py)
        case $name in
        stockhelper | kinds) continue ;;
        nested) sudo -n -u nobody "$(command -v "$python")" -c pass 2>/dev/null || { echo "$python $name: not tried, nobody may not run it"; continue; } ;;
        esac
        timeout 120 "$python" "$program" arg >"$work/own" 2>"$work/own.err" </dev/null
        own=$?
        timeout 120 mitogend master -- "$python" "$program" arg >"$work/ours" 2>"$work/ours.err" </dev/null
        ours=$?
        if [ $own != 0 ]; then
            echo "$python $name: fails under Mitogen's own master, status $own; under mitogend master $ours"
            continue
        fi
        clean "$work/own" >"$work/own.clean"
        clean "$work/ours" >"$work/ours.clean"
        [ -s "$work/own.clean" ] && diff "$work/own.clean" "$work/ours.clean" >"$work/diff"
        status=$?
        report "$name" $status
        [ $status = 0 ] || { cat "$work/diff"; tail -n 3 "$work/own.err" "$work/ours.err"; }
    done
    for how in master serve; do
        if [ $how = master ]; then
            timeout 120 mitogend master -- "$python" "$work/kinds.py" >"$work/ours" 2>"$work/ours.err" </dev/null
        else
            timeout 120 "$python" "$work/kinds.py" "$work/run/mitogen.sock" >"$work/ours" 2>"$work/ours.err" </dev/null
        fi
        status=$?
        report "kinds, $how" $status
        [ $status = 0 ] || cat "$work/ours" "$work/ours.err"
    done
done
exit $bad
