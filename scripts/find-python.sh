#!/bin/sh
# Prints the interpreter that builds zerofs: $PYTHON, else the newest Python from 3.11 up on the PATH.
# Exits with 1 where there is none.  A name on the PATH is believed only once it has run: version
# managers leave names there that run nothing.
set -u

suitable() {
    found=$("$1" -c 'import sys; print(sys.executable); sys.exit(sys.version_info < (3, 11))' </dev/null 2>/dev/null) && echo "$found"
}

if [ -n "${PYTHON:-}" ]; then
    suitable "$PYTHON" && exit 0
    echo "PYTHON=$PYTHON is not a Python from 3.11 up" >&2
    exit 1
fi
for name in python3.13 python3.12 python3.11 python3; do
    suitable "$name" && exit 0
done
exit 1
