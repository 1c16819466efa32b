"""The completions of shells, and the manual page."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.commands.conftest import Zerofs
from zerofs.cli import COMMANDS
from zerofs.cli.words import all_words


def completed(script: Path, line: str) -> set[str]:
    """What bash offers for the last word of `line`."""
    words = line.split(" ")
    quoted = " ".join(f"'{word}'" for word in words)
    command = (
        f"source '{script}'; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _zerofs;"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.fixture
def script(zerofs: Zerofs, tmp_path: Path) -> Path:
    path = tmp_path / "completion"
    path.write_text(zerofs("completion", "bash").out)
    return path


def test_bash(script: Path) -> None:
    assert set(COMMANDS) <= completed(script, "zerofs ")
    assert completed(script, "zerofs un") == {"unpack", "unpin"}
    assert "--one-file-system" in completed(script, "zerofs pack --")
    assert completed(script, "zerofs pack --format ") == {"rocksdb", "sqlite", "fl"}
    assert "copy" in completed(script, "zerofs store ")
    assert completed(script, "zerofs store copy --no-v") == {"--no-verify"}
    assert "--storage-url" in completed(script, "zerofs mount --s")


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells(zerofs: Zerofs, tmp_path: Path, shell: str) -> None:
    text = zerofs("completion", shell).out
    assert "one-file-system" in text
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([shell, "-n", tmp_path / "script"], check=True)


def test_every_option_is_explained() -> None:
    for each in all_words():
        assert all(option.help for option in each.options), each.command


def test_manual_page(zerofs: Zerofs, tmp_path: Path) -> None:
    page = zerofs("man").out
    assert all(f".SS {name}\n" in page for name in COMMANDS)
    assert r"\-\-one\-file\-system" in page
    if shutil.which("groff"):
        (tmp_path / "zerofs.1").write_text(page)
        command = ["groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z", tmp_path / "zerofs.1"]
        assert subprocess.run(command, capture_output=True, check=True).stderr == b""
