# shellcheck shell=bash disable=SC2034  # what is unused here is used there
#
# What test/check and test/demo share: output, progress, missing packages, a
# build of their own, and who does what.  Sourced, never run.
#
# - Only apt-get and `make install` run as root.  Building and every server is
#   the job of $runner: the user who calls, or postgres when root calls.
# - Nothing is written into the source tree: it is copied to $work, which
#   belongs to $runner, and built there.
# - No server that somebody else started is started, stopped or spoken to.

set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# The version of PostgreSQL; all but test/matrix run on the reference.
reference=15
version=${TEST_POSTGRES:-$reference}
pgbin=/usr/lib/postgresql/$version/bin
pgxs=/usr/lib/postgresql/$version/lib/pgxs
build_packages=("postgresql-$version" "postgresql-server-dev-$version" make gcc libc6-dev xz-utils)

if (( EUID == 0 )); then runner=postgres; else runner=$(id -un); fi

# ---------------------------------------------------------------- terminal

# $tty: lines may be redrawn in place.  Elsewhere no escape code is printed.
tty='' bold='' dim='' red='' green='' yellow='' plain='' erase=''
if [[ -t 1 && ${TERM:-dumb} != dumb ]]; then
	tty=yes erase=$'\e[K'
	if [[ -z ${NO_COLOR:-} ]]; then
		bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'
		red=$'\e[31m' green=$'\e[32m' yellow=$'\e[33m'
	fi
fi

case ${LC_ALL:-${LC_CTYPE:-${LANG:-}}} in
	*[Uu][Tt][Ff]*8*) utf8=yes tick='✓' cross='✗' dots='…' spinner=(⠋ ⠙ ⠹ ⠸ ⠼ ⠴ ⠦ ⠧ ⠇ ⠏) ;;
	*) utf8='' tick='*' cross='x' dots='...' spinner=('|' / - "\\") ;;
esac

# From here on the same for everybody: files, messages, sort order, clients.
umask 022
export LC_ALL=C.UTF-8 LANG=C.UTF-8
unset LANGUAGE
for name in "${!PG@}"; do
	[[ $name == PG_TEST_* ]] || unset "$name" # how the tests wait is the caller's business
done

say() { printf '  %s\n' "$*"; }
good() { printf '%s  %s%s%s %s\n' "${tty:+$'\r'$erase}" "$green" "$tick" "$plain" "$*"; }
bad() { printf '%s  %s%s%s %s\n' "${tty:+$'\r'$erase}" "$red" "$cross" "$plain" "$*"; }

# die TEXT…: give up, with the end of the log when there is one.
die() {
	bad "$1"
	(($# < 2)) || printf '    %s\n' "${@:2}"
	if [[ -s ${log:-} ]]; then
		keep_log=yes
		printf '\n    the end of %s:\n' "$log"
		tail -n 30 "$log" | sed 's/^/    | /'
	fi
	exit 1
}

# seconds SINCE: the time since $SECONDS was SINCE, to be read by people.
seconds() {
	local s=$((SECONDS - $1))
	if ((s < 60)); then echo "$s s"; else echo "$((s / 60)) min $((s % 60)) s"; fi
}

# --------------------------------------------------------------- clean end

# $own holds the log and whatever else the caller writes; $work is $runner's.
own=$(mktemp -d "${TMPDIR:-/tmp}/incbatch-log.XXXXXX")
log=$own/log keep_log='' work='' keep_work='' child=''

# at_exit STATUS: a command that sources this may define its own.
at_exit() { :; }

finish() {
	trap - EXIT INT TERM HUP
	set +e
	[[ -z $child ]] || { kill -TERM -- "-$child" && wait "$child"; } 2>/dev/null
	[[ -z $tty ]] || printf '\r%s\e[?25h\e[?7h' "$erase"
	cd /
	[[ -z $work ]] || stop_servers "$work"
	at_exit "$1"
	[[ -z $work || -n $keep_work ]] || as_runner rm -rf "$work"
	[[ -n $keep_log ]] || rm -rf "$own"
	exit "$1"
}
trap 'finish $?' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'exit 129' HUP

# ---------------------------------------------------------------- progress

# follow FUNCTION TEXT COMMAND…: run the command with its output in the log,
# hand each line of it to FUNCTION, and show how long TEXT has taken and which
# line it is at.  Sets $status.  Never call this where bash ignores `set -e`
# (`if`, `||`): the command could be a function that relies on it.
follow() {
	local each=$1 text=$2 began=$SECONDS next=1 line='' at='' part fd ended
	shift 2

	rm -f "$own/pipe"
	mkfifo "$own/pipe"
	set -m # a process group of its own, which finish can end
	("$@") >"$own/pipe" 2>&1 </dev/null &
	child=$!
	set +m
	exec {fd}<"$own/pipe"

	while :; do
		# asked before reading, so that all that it wrote is read
		ended=''
		kill -0 "$child" 2>/dev/null || ended=1
		status=0
		IFS= read -r -t "${tty:+0.}1" -u "$fd" part || status=$?
		line+=$part
		at=${line:-$at}
		if ((status == 0)); then
			printf '%s\n' "$line" >>"$log"
			"$each" "$line"
			line=''
		elif ((status > 128)); then
			# A server may live on and hold the pipe open.
			[[ -z $ended ]] || break
		else
			break
		fi
		working "$text" "$began" "$at"
	done
	exec {fd}<&-
	[[ -z $line ]] || printf '%s\n' "$line" >>"$log"
	[[ -z $tty ]] || printf '\r%s' "$erase"

	status=0
	wait "$child" || status=$?
	child=''
}

# working TEXT SINCE DETAIL: in place on a terminal; elsewhere a line after
# the first second and then every ten, for which follow keeps $next.
working() {
	local passed=$((SECONDS - $2)) head detail
	((passed >= 1)) || return 0
	if [[ -n $tty ]]; then
		spin=$(((${spin:-0} + 1) % ${#spinner[@]}))
		head="$1, $(seconds "$2")"
		detail=${3//[^[:print:]]/ }
		printf '\r  %s %s  %s%s%s%s' "${spinner[spin]}" "$head" "$dim" "${detail:0:$((72 - ${#head}))}" "$plain" "$erase"
	elif ((passed >= next)); then
		next=$((passed / 10 * 10 + 10))
		printf '    %s %s %s\n' "$1" "$dots" "$(seconds "$2")"
	fi
}

# step TEXT COMMAND…: one thing to do, which must succeed.
step() {
	local text=$1 began=$SECONDS
	shift
	follow : "$text" "$@"
	((status == 0)) || die "$text: failed after $(seconds "$began")"
	good "$text  $dim$(seconds "$began")$plain"
}

# ---------------------------------------------------------- who does what

as_root() {
	if ((EUID)); then sudo "$@"; else "$@"; fi
}

as_runner() {
	if ((EUID)); then
		"$@"
	else
		setpriv --reuid=postgres --regid=postgres --init-groups env HOME="${work:-/nonexistent}" "$@"
	fi
}

# ask_for_root: let sudo ask for its password before anything runs in the
# background.
ask_for_root() {
	((EUID)) || return 0
	command -v sudo >/dev/null || die "$1 needs root" "run this as root, or install sudo"
	sudo true || die "$1 needs root"
}

# stop_servers DIR: the servers with their data below it, whatever they do.
stop_servers() {
	local file files
	mapfile -t files < <(as_runner find "$1" -name postmaster.pid)
	for file in "${files[@]}"; do
		as_runner "$pgbin/pg_ctl" -D "${file%/*}" -m immediate -w stop >>"$log" 2>&1 || true
	done
}

# --------------------------------------------------------------- packages

# install_packages NAME…: those that are missing; without any, apt is left
# alone.
install_packages() {
	local name missing=()
	for name; do
		[[ $(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2>/dev/null) == ?i* ]] || missing+=("$name")
	done
	((${#missing[@]})) || return 0

	command -v apt-get >/dev/null || die "missing: ${missing[*]}" "only Debian's packages can be installed from here"
	ask_for_root "installing ${missing[*]}"
	say "Missing here: ${missing[*]}"
	step "Read the package lists" as_root apt-get update
	step "Install ${#missing[@]} packages and what they need" apt_install "${missing[@]}"
}

# apt_install NAME…: without any server being created or started by it, now or
# when the machine starts.
apt_install() {
	as_root bash -euo pipefail -s -- "$@" <<-'END'
		no_start=/usr/sbin/policy-rc.d
		no_cluster=/etc/postgresql-common/createcluster.d/incbatch.conf
		made=()
		trap 'rm -f "${made[@]}"; rmdir --ignore-fail-on-non-empty "${no_cluster%/*}"' EXIT
		mkdir -p "${no_cluster%/*}"
		if [[ ! -e $no_start ]]; then
			made+=("$no_start")
			printf '#!/bin/sh\nexit 101\n' >"$no_start"
			chmod 755 "$no_start"
		fi
		made+=("$no_cluster")
		echo 'create_main_cluster = false' >"$no_cluster"
		export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
		apt-get -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 --no-install-recommends -y install "$@" </dev/null
		for service in $(dpkg -L "$@" | sed -n 's|^/etc/init\.d/||p'); do
			update-rc.d "$service" disable # the systemd unit with it
		done
	END
}

# ------------------------------------------------------------------ build

# scratch: a directory in which $runner can work, with a name short enough
# for the socket of a server somewhere below it (107 bytes in all).
scratch() {
	local dir
	for dir in "${TMPDIR:-}" /tmp /var/tmp; do
		if [[ $dir == /* && ${#dir} -le 40 ]] && as_runner test -w "$dir" -a -x "$dir"; then
			echo "$dir"
			return
		fi
	done
	die "no directory for temporary files that $runner can write to"
}

# open_work: make $work, and use it for all temporary files from here on.
open_work() {
	work=$(scratch)
	cd "$work"
	work=$(as_runner mktemp -d "$work/incbatch.XXXXXX")
	export TMPDIR=$work
	cd "$work"
}

# LLVM bitcode is left out: it would need clang, and nothing here reads it.
make=(make PG_CONFIG="$pgbin/pg_config" with_llvm=no)

# build NAME [MAKE ARGUMENT…]: a copy of the tree in $work/NAME, built.
build() {
	local dir=$work/$1
	shift
	as_runner mkdir "$dir"
	tar -C "$root" --exclude-vcs --exclude='tmp_check*' --exclude='*.o' --exclude='*.so' --exclude='*.bc' \
		--mode=u+rwX -cf - . | as_runner tar -C "$dir" -xf -
	as_runner "${make[@]}" -C "$dir" -j"$(nproc)" "$@"
}

# copy_server DIR: PostgreSQL in DIR/lib/postgresql/$version; it finds its files
# from where its programs are.
copy_server() {
	as_runner mkdir -p "$1/lib/postgresql/$version" "$1/share/postgresql"
	as_runner cp -RL "/usr/lib/postgresql/$version/." "$1/lib/postgresql/$version"
	as_runner cp -RL "/usr/share/postgresql/$version" "$1/share/postgresql/"
	as_runner ln -s /usr/include "$1/include"
}

# mutants: of src/mutant.h, each with its name, its number and its test.
mutants() { sed -nE 's|^\s*MUTANT_(\w+) = ([0-9]+),\s*/\* (\w+): .*|\1 \2 \3|p' "$root/src/mutant.h"; }

# install_build NAME: into PostgreSQL's own directories, which takes root.
install_build() { as_root "${make[@]}" -C "$work/$1" install; }
