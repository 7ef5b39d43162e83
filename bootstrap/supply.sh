# Runs in the target's sh when it has found no Python: looks for a build that fits the machine, in a directory that is in memory and
# nobody else's, asks for it if it is not there, and becomes it. Before this text come the variables keep (1 or nothing) and
# given (a directory or nothing), and the function table, which calls try for each build. From the chooser: s is the text for
# python -c and a its arguments.
#
# In the directory mitogend-UID there is HASH, with manifest, python and users. Each user has a directory in users, of its process id and
# the number of its name space. Whoever can remove users itself was the last, and nobody can come any more: then the rest goes. What
# is not whole yet is PID.NUMBER.part; from there it is moved to HASH, users last.

nl='
'
IFS=' 	'$nl
unset PYTHONHOME
# With its session a terminal ends, and what was printed last; and who still sends does not listen.
fail() {
	echo "MITOERR python_from: $*"
	[ ! -t 0 ] || cat >/dev/null
	exit 1
}
[ "$(command -v sha256sum)" ] && [ "$(command -v head)" ] || fail "sha256sum and head are needed there, and one is missing"

u=$(id -u)
ns=$(readlink /proc/self/ns/pid 2>/dev/null)
ns=${ns#*\[}
ns=${ns%\]}
me=$$.$ns
m=$(uname -m)

# Which build. try NAME... of machines, LOADER, GLIBC, HASH, PYTHON, FOREIGN, KIBIBYTES, LABEL
h= v= why= labels=
libc() {
	[ "$v" ] && return
	v=$(getconf GNU_LIBC_VERSION 2>/dev/null || ldd --version 2>/dev/null | head -n 1)
	v=${v##* }
}
try() {
	labels="$labels${labels:+, }$8"
	[ "$h" ] && return
	case " $1 " in *" $m "*) ;; *) return ;; esac
	if [ "$2" ] && [ ! -e "$2" ]; then
		why="$why; $8 needs $2, which is not there"
		return
	fi
	if [ "$3" ]; then
		libc
		case ${v#2.} in
		*[!0-9]* | '') ;;
		*)
			if [ "${v#2.}" -lt "${3#2.}" ]; then
				why="$why; $8 needs glibc $3, and $v is there"
				return
			fi
			;;
		esac
	fi
	h=$4 p=$5 foreign=$6 size=$7 label=$8
}
table
[ "$h" ] || fail "no build fits this machine, which is $m${why:-; there are: $labels}"

# Who may change a directory: mine passes where that is only root and us, up to the top.
mine() {
	x=$1
	while :; do
		set -- $(ls -ldn "$x/." 2>/dev/null)
		case $1 in d????????[tT]* | d????-??-*) ;; *) return 1 ;; esac
		[ "$3" = 0 ] || [ "$3" = "$u" ] || return 1
		[ "$x" ] || return 0
		x=${x%/*}
	done
}
dead() {
	n=${1##*/}
	[ "$n" != "$me" ] && [ "$n" != "$me.part" ] || return 1
	case $n in [0-9]*."$ns" | [0-9]*."$ns.part") ! kill -0 "${n%%.*}" 2>/dev/null ;; *) return 1 ;; esac
}
inmemory() {
	if [ ! -r /proc/mounts ]; then
		[ "$1" = /dev/shm ]
		return
	fi
	kind=
	while read -r _ at type _; do
		[ "$at" != "$1" ] || kind=$type
	done </proc/mounts
	case $kind in tmpfs | ramfs) ;; *) return 1 ;; esac
}
# Make our own part in a directory, if it will do.
take() {
	r=$d/mitogend-$u w=$d/mitogend-$u/$me.part
	mine "$d" || { why="$why; $d: others can write to it, or to one above it"; return 1; }
	for _ in 1 2; do
		mkdir -m 700 "$r" 2>/dev/null
		set -- $(ls -ldn "$r" 2>/dev/null)
		case $1 in
		drwx------*) ;;
		'') why="$why; $d: it cannot be written to"; return 1 ;;
		*) why="$why; $r is there and is not ours alone"; return 1 ;;
		esac
		[ "$3" = "$u" ] || { why="$why; $r is there and is not ours"; return 1; }
		mkdir -m 700 "$w" 2>/dev/null && break
	done
	for x in "$r"/*.part "$r"/*/users/*; do
		! dead "$x" || rm -rf "$x"
	done
	for x in "$r"/*/users; do
		[ "$x" = "$r/$h/users" ] || ! rmdir "$x" 2>/dev/null || rm -rf "${x%/users}"
	done
	# What has no users is being made, or removed. Whoever makes it has a part: without one but ours it is of somebody who was killed.
	set -- "$r"/*.part
	if [ "$*" = "$w" ]; then
		for x in "$r"/*; do
			case ${x##*/} in *[!0-9a-f]*) continue ;; esac
			[ -d "$x/users" ] || rm -rf "$x"
		done
	fi
	if ! { echo '#!/bin/sh' >"$w/x" && chmod 700 "$w/x"; } 2>/dev/null; then
		why="$why; $d: it cannot be written to, or is full"
	elif ! "$w/x" 2>/dev/null; then
		why="$why; $d: no program can run there (noexec)"
	else
		rm -f "$w/x"
		[ -d "$r/$h/users" ] && return
		set -- $(df -Pk "$w" 2>/dev/null | tail -n 1)
		case $4 in
		*[!0-9]* | '') return ;;
		esac
		[ "$4" -lt "$size" ] || return 0
		why="$why; $d: $(($4 / 1024)) MiB are free, and $((size / 1024 + 1)) are needed"
	fi
	drop
	return 1
}
drop() {
	rm -rf "$r/$me.part"
	rmdir "$r" 2>/dev/null
}
why=
place() {
	if [ "$given" ]; then
		d=$(cd -P "$given" 2>/dev/null && pwd) || fail "$given: it is no directory"
		d=${d%/}
		take
		return
	fi
	for d in "$XDG_RUNTIME_DIR" "/run/user/$u" /dev/shm /run /tmp /dev; do
		case $d in /*) ;; *) continue ;; esac
		[ -d "$d" ] || continue
		inmemory "$d" || { why="$why; $d: it is not in memory"; continue; }
		! take || return 0
	done
	return 1
}
place || fail "there is no place for it${why:-; none of /run/user, /dev/shm, /run, /tmp and /dev is there}"
trap 'drop; exit 1' HUP INT TERM PIPE

# Is the build in $1 whole? Then it stays while we use it.
whole() { (cd "$1/python" && echo "$h  ../manifest" | sha256sum -c && sha256sum -c ../manifest) >/dev/null 2>&1; }
use() {
	mkdir "$1/users/$me" 2>/dev/null || return 1
	! whole "$1" || return 0
	rmdir "$1/users/keep" 2>/dev/null
	(w=$1; leave)
	return 1
}
leave() {
	rmdir "$w/users/$me" 2>/dev/null
	for x in "$w"/users/*; do
		! dead "$x" || rmdir "$x"
	done
	if rmdir "$w/users" 2>/dev/null; then
		[ "$w" = "$r/$me.part" ] || mv "$w" "$r/$me.part" 2>/dev/null
		drop
	fi
}
if use "$r/$h"; then
	w=$r/$h
	rmdir "$r/$me.part" 2>/dev/null
else
	z=
	[ -z "$(command -v gzip)" ] || z=.gz
	plain() { if [ "$z" ]; then gzip -dc; else cat; fi; }
	if [ "$(command -v tar)" ]; then
		form=tar
		unpack() { tar -xof -; }
	elif [ "$(command -v base64)" ]; then
		form=sh
		unpack() { sh; }
	else
		drop
		fail "tar or base64 is needed there to unpack it, and both are missing"
	fi
	mkdir -m 700 "$r" 2>/dev/null
	mkdir -m 700 "$w" 2>/dev/null
	mkdir "$w/users" 2>/dev/null
	# The size is asked for by itself: read may take more than a line.
	echo "MITOSIZE $h $form$z"
	read -r n || { drop; exit 1; }
	echo "MITOSEND $h $form$z"
	e=$({ head -c "$n" | plain | (cd "$w" && unpack); } 2>&1 >/dev/null)
	if ! use "$w"; then
		drop
		e=${e%%"$nl"*}
		fail "it could not be unpacked in $d: ${e:-what came is not what was sent}"
	fi
	if use "$r/$h"; then
		drop
		w=$r/$h
	elif mkdir "$r/$h" 2>/dev/null && mv "$w/manifest" "$w/python" "$r/$h" && mv "$w/users" "$r/$h"; then
		rmdir "$w"
		w=$r/$h
	fi
fi
trap - HUP INT TERM PIPE
q=$w/python/$p
if [ "$foreign" ]; then
	lib=$w/python/lib/mitogend
	if [ "${LD_LIBRARY_PATH+x}" ]; then
		s="import os,sys;os.environ[\"LD_LIBRARY_PATH\"]=os.environ.pop(\"MITOGEND_LIBS\");sys.executable=\"$w/python/bin/python\";$s"
		export MITOGEND_LIBS="$LD_LIBRARY_PATH" LD_LIBRARY_PATH="$lib:$LD_LIBRARY_PATH"
	else
		s="import os,sys;del os.environ[\"LD_LIBRARY_PATH\"];sys.executable=\"$w/python/bin/python\";$s"
		export LD_LIBRARY_PATH="$lib"
	fi
fi
if ! e=$("$q" -SEc "import sys;sys.path[:]=filter(None,sys.path);import zlib" 2>&1 </dev/null); then
	leave
	fail "$label does not start: ${e##*"$nl"}"
fi
if [ "$keep" ]; then
	mkdir "$w/users/keep" 2>/dev/null
	rmdir "$w/users/$me"
	exec "$q" -c "$s" $a
fi
trap : HUP INT TERM PIPE
exec 7<&0 8>&1 </dev/null >/dev/null
{
	"$q" -c "$s" $a <&7 >&8 7<&- 8>&-
	echo $?
} | {
	trap '' HUP INT TERM PIPE
	exec 7<&- 8>&- 2>/dev/null
	read -r c
	leave
	exit "${c:-1}"
}
