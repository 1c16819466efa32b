"""The command line as a whole: help, errors, statuses, and what is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs
from tests.support.sandbox import BINARIES
from zerofs import __version__, cli
from zerofs.cli import COMMANDS, main
from zerofs.cli.mount import parse_mount
from zerofs.errors import FlistCorruptError


def test_help_lists_the_commands(zerofs: Zerofs) -> None:
    text = " ".join(zerofs("--help").out.split())
    for name, command in COMMANDS.items():
        assert f"{name} {command.summary}" in text


@pytest.mark.parametrize("name", ["pack", "unpack", "ls", "stat", "cat", "info", "merge"])
def test_help_has_examples(zerofs: Zerofs, name: str) -> None:
    assert f"examples:\n  zerofs {name} " in zerofs(name, "--help").out


@pytest.mark.parametrize("action", ["show", "export", "import", "merge", "add"])
def test_help_of_profile(zerofs: Zerofs, action: str) -> None:
    assert f"examples:\n  zerofs profile {action} " in zerofs("profile", action, "--help").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["mount"], "required: MOUNTPOINT (see"),
        (["pack", "--store", "dir:///x", "nowhere", "x.flist"], "name a directory, a tar, or -"),
        (["profile", "show", "nowhere"], "there is no profile nowhere"),
        (["warmup", "--all", "nowhere"], "nowhere is no mount of a flist"),
    ],
)
def test_a_mistake_is_named(zerofs: Zerofs, arguments: list[str], said: str) -> None:
    status = 1 if arguments[0] in ("pack", "profile") else 2
    assert said in zerofs(*arguments, status=status).err


def test_help_of_store_copy(zerofs: Zerofs) -> None:
    assert "examples:\n  zerofs store copy " in zerofs("store", "copy", "--help").out


def test_version(zerofs: Zerofs) -> None:
    assert zerofs("--version").out == f"zerofs {__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["mount", "--help"]])
def test_only_what_is_needed_is_imported(arguments: list[str]) -> None:
    script = (
        "import sys; from zerofs.cli import main; status = main(sys.argv[1:]);"
        "print('\\n'.join(sys.modules), file=sys.stderr); raise SystemExit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())
    heavy = {"numpy", "rich", "capnp", "yaml", "cryptography", "rocksdict", "asyncio", "ssl", "tarfile"}
    assert not loaded & heavy
    assert not {name for name in loaded if name.startswith("zerofs.pack")}
    assert {name for name in loaded if name.startswith("zerofs.cli.")} <= {
        "zerofs.cli.guard",
        "zerofs.cli.parser",
        "zerofs.cli.mount",
        "zerofs.cli.mount_options",
        "zerofs.cli.mounting",
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["lss"],
        ["--nonsense"],
        ["ls"],
        ["ls", "--nonsense", "x"],
        ["store"],
        ["store", "move"],
        ["merge", "x"],
        ["cat", "--timeout", "-1", "x", "y"],
        ["ls", "--max-flist-size", "huge", "x"],
    ],
)
def test_usage_errors(zerofs: Zerofs, arguments: list[str]) -> None:
    zerofs(*arguments, status=2)


@pytest.mark.parametrize("command", [["ls"], ["info", "--json"], ["cat"]])
def test_whoever_closed_standard_output_wants_none(packed: Packed, command: list[str]) -> None:
    script = 'exec "$@" >&-'
    arguments = [BINARIES / "zerofs", *command, packed.flist, *(["one"] if command == ["cat"] else [])]
    done = subprocess.run(["sh", "-c", script, "sh", *arguments], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_first_flist_may_be_a_url() -> None:
    url = "http://host.example//image.flist"
    assert parse_mount([url, "base.flist", "/mnt/"]).meta == (url, "base.flist")
    assert parse_mount(["--meta", url, "/mnt/"]).target == Path("/mnt")


def test_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "COMMAND" in capsys.readouterr().out


def test_a_typing_error_is_understood(zerofs: Zerofs) -> None:
    assert "is it unpack?" in zerofs("unpak", status=2).err


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def run(args: object) -> int:
        raise error

    monkeypatch.setattr("zerofs.cli.info.run", run)


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (FlistCorruptError("damaged", hint="try"), 3, "zerofs: damaged (try)\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "zerofs: /x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "zerofs: interrupted\n"),
        (
            RuntimeError("two\nlines"),
            1,
            "zerofs: internal error: RuntimeError: two lines (run with --debug)\n",
        ),
    ],
)
def test_errors_are_one_line(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    line: str,
) -> None:
    fail_with(monkeypatch, error)
    assert main(["info", "x"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("arguments", [["--debug", "info", "x"], ["info", "--debug", "x"]])
def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    fail_with(monkeypatch, RuntimeError("reason"))
    assert main(arguments) == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_reader_that_goes_away(packed: Packed) -> None:
    reading, writing = os.pipe()
    process = subprocess.Popen(
        [BINARIES / "zerofs", "cat", packed.flist, "long"], stdout=writing, stderr=subprocess.PIPE
    )
    os.close(writing)
    os.close(reading)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (141, b"")


def test_every_command_has_a_module() -> None:
    """Importing them all and building every parser finds a misspelt module or option."""
    mine = [name for name, command in COMMANDS.items() if not command.own_parser]
    cli.build_parser(mine)
    assert all(Path(__import__(c.module, fromlist=["x"]).__file__ or "").exists() for c in COMMANDS.values())
