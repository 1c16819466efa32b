#!/bin/sh
# Installs the Debian or Ubuntu packages that are missing; does nothing, quickly, where none is.
#
#   scripts/system-packages.sh            install what is missing
#   scripts/system-packages.sh --missing  only print the names of what is missing
#
# Without the packages of the first list nothing can be built: not getting one is an error.  The second
# list is for tests, demo and benchmark: what cannot be had is named and left out.
set -eu
cd "$(dirname "$0")/.."

BUILD="gcc libc6-dev pkg-config libfuse-dev libxxhash-dev fuse3"
TESTS="redis-server mmdebstrap bubblewrap rocksdb-tools squashfs-tools squashfuse erofs-utils
       fuse-overlayfs btrfs-progs sqlite3 openssl util-linux mount"

note() { echo "build: $*" >&2; }

# What the interpreter at hand lacks for a build (a system's own comes in parts), or an interpreter.
python_packages() {
    if python=$(scripts/find-python.sh 2>/dev/null); then
        "$python" - <<'PYTHON'
import importlib.util, os, sys, sysconfig
name = f"python{sys.version_info.major}.{sys.version_info.minor}"
if sys.base_prefix == "/usr":
    if importlib.util.find_spec("ensurepip") is None:
        print(f"{name}-venv")
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        print(f"{name}-dev")
PYTHON
        return
    fi
    for name in python3.13 python3.12 python3.11; do
        if apt-cache show "$name-venv" >/dev/null 2>&1; then
            echo "$name $name-venv $name-dev"
            return
        fi
    done
    echo python3.11
}

# Those of the arguments that are not installed; pkg-config may come from another package.
missing() {
    have=" $(dpkg-query -W -f='${db:Status-Status}:${Package} ' "$@" 2>/dev/null || true)"
    for package in "$@"; do
        case "$have" in *" installed:$package "*) continue ;; esac
        [ "$package" = pkg-config ] && command -v pkg-config >/dev/null && continue
        echo "$package"
    done
}

# Those of the arguments that the package lists know.
known() {
    for package in "$@"; do
        if apt-cache show "$package" >/dev/null 2>&1; then
            echo "$package"
        else
            note "there is no package $package here: what needs it will be skipped"
        fi
    done
}

if ! command -v dpkg-query >/dev/null; then
    note "no Debian packages here; needed: a C compiler, pkg-config, headers of FUSE 2 and xxHash, fusermount, redis-server"
    exit 0
fi

# shellcheck disable=SC2046,SC2086  # the words are package names, here and below
need=$(echo $(missing $BUILD) $(python_packages))
# shellcheck disable=SC2046,SC2086
want=$(echo $(missing $TESTS))
if [ "${1:-}" = --missing ]; then
    echo "$need" "$want"
    exit 0
fi
[ -n "$need$want" ] || exit 0

as_root=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null; then
        note "as root, run: apt-get install $need $want"
        [ -z "$need" ] || exit 1
        exit 0
    fi
    as_root=sudo
    [ -t 0 ] || as_root="sudo -n"
fi

# A package's service is neither started nor left to start at the next boot: tests run their own servers.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    # shellcheck disable=SC2064
    trap "$as_root rm -f $policy" EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' | $as_root tee $policy >/dev/null
    $as_root chmod 755 $policy
fi

# Quiet, unless it fails.
apt() {
    log=$(mktemp)
    if $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@" </dev/null >"$log" 2>&1; then
        rm -f "$log"
    else
        tail -n 20 "$log" >&2
        rm -f "$log"
        return 1
    fi
}

note "installing $need $want"
apt update || note "apt-get update failed; going on with the lists at hand"
# shellcheck disable=SC2046,SC2086
need=$(echo $(missing $BUILD $(python_packages)))
# shellcheck disable=SC2086
[ -z "$need" ] || apt install --no-install-recommends -y $need
# shellcheck disable=SC2046,SC2086
found=$(known $(missing $TESTS))
# shellcheck disable=SC2086
if [ -n "$found" ] && ! apt install --no-install-recommends -y $found; then
    note "not everything that the tests need could be installed"
fi
case " $want " in
    *" redis-server "*) [ ! -d /run/systemd/system ] || $as_root systemctl disable --quiet redis-server ;;
esac
