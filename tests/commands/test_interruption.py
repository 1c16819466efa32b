"""How signals end commands, wherever they meet the interpreter: while it imports, while it works, in a finaliser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import Packed
from zerofs.cache.lmdb import ChunkCache

IN_A_FINALISER = """
import os, signal, sys, time
from zerofs.interruption import interruptible

class Subject:
    def __del__(self):
        os.kill(os.getpid(), signal.{name})
        time.sleep(0.1)

try:
    with interruptible():
        subject = Subject()
        del subject
        time.sleep(30)
    sys.exit(3)
except KeyboardInterrupt:
    time.sleep(0.1)
    os.kill(os.getpid(), signal.{name})  # another one does not disturb the end
    sys.exit(130)
"""
# A command that is struck in a finaliser, where Python drops exceptions, when it imports `module` for the first time.
STRUCK = """
import os, signal, sys
from zerofs import start

class Subject:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

class Finder:
    def find_spec(self, name, path, target=None):
        if name == module:
            sys.meta_path.remove(self)
            Subject()

command, module = sys.argv[1:3]
sys.argv[1:] = sys.argv[3:]
sys.meta_path.insert(0, Finder())
sys.exit(getattr(start, command)())
"""
# A command that is struck when it has just made the directory that it builds a flist in.
WITH_A_NEW_DIRECTORY = """
import os, signal, sys, tempfile
from zerofs import start

real = tempfile.mkdtemp
def struck(*arguments, **keywords):
    path = real(*arguments, **keywords)
    if os.path.dirname(path) == os.environ["TMPDIR"] and "zerofs-flist-" in path:
        os.kill(os.getpid(), signal.SIGINT)
    return path
tempfile.mkdtemp = struck
sys.exit(start.zerofs())
"""
# `zerofs df`, struck while it has the cache open.
WITH_A_CACHE_OPEN = """
import os, signal, sys
from zerofs import start
from zerofs.cache import inventory

def struck(state):
    os.kill(os.getpid(), signal.SIGINT)
    return []
inventory.known_flists = struck
sys.exit(start.zerofs())
"""
# A program that the benchmark starts, and a signal before anybody has its number.
WHILE_IT_STARTS = """
import os, signal, subprocess, sys, time
from zerofs.bench import host
from zerofs.interruption import interruptible

real = subprocess.Popen.__init__
def struck(self, *arguments, **keywords):
    real(self, *arguments, **keywords)
    while not os.path.exists(sys.argv[1]) or not os.path.getsize(sys.argv[1]):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)
subprocess.Popen.__init__ = struck
try:
    with interruptible():
        host.command("sh", "-c", "echo $$ > $0; exec sleep 60", sys.argv[1])
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_meets_a_finaliser_is_not_lost(number: signal.Signals) -> None:
    program = IN_A_FINALISER.format(name=number.name)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, b"")


def test_what_else_goes_wrong_in_a_finaliser_is_said() -> None:
    program = IN_A_FINALISER.format(name="SIGINT").replace("os.kill", "1 / 0; os.kill").replace("(30)", "(0)")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert done.returncode == 3
    assert b"ZeroDivisionError" in done.stderr


@pytest.mark.parametrize(
    ("command", "module", "said"),
    [
        ("zerofs ls", "zerofs.cli", "zerofs"),
        ("zerofs ls", "zerofs.cli.ls", "zerofs"),
        ("zerofs ls", "zerofs.flist.load", "zerofs"),
        ("zerofs unpack", "zerofs.pack.contents", "zerofs"),
        ("zerofs ls", "rocksdict", "zerofs"),
        ("zerofs mount", "zerofs.mount.service", "zerofs"),
        ("g8ufs --meta", "zerofs.cli.g8ufs", "g8ufs"),
        ("bench peers", "zerofs.bench.scenarios", "zerofs bench"),
    ],
)
def test_an_interrupt_while_modules_are_imported_is_one_line(
    packed: Packed, tmp_path: Path, command: str, module: str, said: str
) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    program, *arguments = command.split()
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, program, module, *arguments, packed.flist, tmp_path / "mnt"],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", f"{said}: interrupted\n")
    assert list(scratch.iterdir()) == [] and not (tmp_path / "mnt").exists()


def test_an_interrupt_leaves_no_directory_that_was_just_made(packed: Packed, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_NEW_DIRECTORY, "merge", packed.flist, "-o", tmp_path / "new"],
        env={**os.environ, "TMPDIR": str(scratch)},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"zerofs: interrupted\n")
    assert list(scratch.iterdir()) == [] and not (tmp_path / "new").exists()


def test_an_interrupt_of_df_leaves_the_cache_in_good_order(tmp_path: Path) -> None:
    ChunkCache(tmp_path, size_limit=1 << 20).close()
    done = subprocess.run(
        [sys.executable, "-c", WITH_A_CACHE_OPEN, "df", "--cache", tmp_path],
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, b"", b"zerofs: interrupted\n")
    assert (tmp_path / "users.lock").read_bytes() == b""


def test_an_interrupt_that_the_caller_ignores_is_ignored(packed: Packed) -> None:
    """As a shell starts what is to run in the background."""
    command = [sys.executable, "-c", STRUCK, "zerofs", "zerofs.flist.load", "ls", packed.flist]
    done = subprocess.run(
        ["sh", "-c", 'trap "" INT; exec "$@"', "sh", *command], capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_an_interrupt_while_a_program_starts_ends_that_program(tmp_path: Path) -> None:
    """Whatever it was about to mount would stay."""
    place = tmp_path / "number"
    command = [sys.executable, "-c", WHILE_IT_STARTS, place]
    done = subprocess.run(command, stderr=subprocess.PIPE, check=False, timeout=50)
    assert (done.returncode, done.stderr) == (130, b"")
    assert not Path(f"/proc/{int(place.read_text())}").exists()
