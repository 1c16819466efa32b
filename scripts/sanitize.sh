#!/bin/sh
# The extensions compiled with ASan and UBSan, elsewhere, and the unit tests that exercise them run on these.
# Usage: scripts/sanitize.sh VENV [PYTEST ARGUMENTS]
set -eu
cd "$(dirname "$0")/.."
python="$PWD/$1/bin/python"
shift
place=build/sanitize

echo "sanitize: compiling the extensions"
ZEROFS_SANITIZE=1 "$python" setup.py --quiet build_ext --build-temp $place/temp --build-lib $place/lib

# A tree of its own: the one that is tested is the first on the path.
rm -rf $place/tree
mkdir -p $place/tree
cp -r zerofs tests pyproject.toml $place/tree
find $place/tree \( -name '*.so' -o -name __pycache__ \) -prune -exec rm -rf {} +
cp -r $place/lib/zerofs $place/tree

# Python itself leaks by design.  SIGBUS is ours: guarded.h answers pages that the disk cannot give.
# libstdc++ comes first, or ASan does not find the exceptions of Cap'n Proto's library.
export ASAN_OPTIONS=detect_leaks=0:handle_sigbus=0:abort_on_error=1:detect_stack_use_after_return=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
export PYTHONMALLOC=malloc # every object is watched, not Python's arenas
export LD_PRELOAD="$(cc -print-file-name=libasan.so) $(cc -print-file-name=libubsan.so) $(cc -print-file-name=libstdc++.so.6)"
export ZEROFS_GOLDEN="${ZEROFS_GOLDEN:-$PWD/../shared/golden}"
cd $place/tree
export PYTHONPATH="$PWD" # for processes that tests start
[ $# -gt 0 ] || set -- tests/kernels tests/chunk tests/flist tests/index tests/engine tests/cache tests/fuzz \
	tests/store/test_resp.py tests/takeover/test_systemd.py
exec "$python" -m pytest -q -p no:cacheprovider "$@"
