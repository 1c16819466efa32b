#!/bin/sh
# Leaves a virtual environment with zerofs installed from this checkout, its extensions compiled.
#
#   scripts/install.sh VENV
set -eu
cd "$(dirname "$0")/.."
venv=$1

if ! "$venv/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    python=$(scripts/find-python.sh) || {
        echo "build: no Python from 3.11 up was found; install one, or name it: make build PYTHON=/path/to/python3" >&2
        exit 1
    }
    echo "build: $("$python" --version) in $venv"
    "$python" -m venv --clear "$venv"
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
# Built in place rather than in isolation: a change of one source then costs one compilation, not a download.
"$venv/bin/python" - <<'PYTHON'
import pathlib, subprocess, sys, tomllib
requires = tomllib.loads(pathlib.Path("pyproject.toml").read_text())["build-system"]["requires"]
sys.exit(subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *requires]).returncode)
PYTHON
echo "build: installing zerofs and what it needs"
"$venv/bin/pip" install --quiet --no-build-isolation --editable '.[dev]'
