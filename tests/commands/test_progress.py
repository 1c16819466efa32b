"""Progress: a bar on a terminal, lines elsewhere, from any thread."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.sandbox import BINARIES
from zerofs.cli import progress
from zerofs.cli.progress import shown_progress


def test_lines(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with shown_progress("packing", silent=False) as shown:
        shown.advance(files=1, size=10)
        shown.expect(files=1200, size=4 << 20)
        shown.advance(files=1, size=1 << 20)
    assert capsys.readouterr().err.splitlines() == [
        "zerofs: packing: 1 files, 10 B",
        "zerofs: packing: 2 of 1,200 files, 1.0 MiB of 4.0 MiB",
    ]


def test_nothing_with_json(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "INTERVAL", 0.0)
    with shown_progress("packing", silent=True) as shown:
        shown.expect(files=1)
        shown.advance(files=1)
    assert capsys.readouterr().err == ""


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    for number in range(20):
        (tmp_path / "tree" / f"{number}").write_bytes(os.urandom(100_000))
    ours, theirs = pty.openpty()
    command = [BINARIES / "zerofs", "pack", "--store", f"dir://{tmp_path}/store"]
    process = subprocess.Popen(
        [*command, tmp_path / "tree", tmp_path / "x.flist"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "120"},
    )
    os.close(theirs)
    shown = b""
    try:
        while data := os.read(ours, 4096):
            shown += data
    except OSError:
        pass  # the other side is closed
    finally:
        os.close(ours)
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert b"packing" in shown
    assert b"20 files" in shown
    assert b"20 distinct chunks of 20" in out
