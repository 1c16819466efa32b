"""Crafted indexes: refused, or harmless to whoever reads them and to the engine, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.index.hostile import REFUSED, SAFE
from zerofs.errors import FlistCorruptError
from zerofs.flist.index import Index, Tables, write_index


@pytest.mark.parametrize("reason", REFUSED)
def test_should_fail(reason: str) -> None:
    with pytest.raises(FlistCorruptError, match="index in memory"):
        Index.anonymous(REFUSED[reason])


@pytest.mark.parametrize("reason", SAFE)
def test_what_is_odd_but_right_is_mapped(reason: str) -> None:
    Index.anonymous(SAFE[reason])


def test_nobody_reads_outside_of_the_map(tmp_path: Path) -> None:
    """Everything that reads an index, on each of them: nothing ends the process, and the refused ones are not read."""
    assert _exercise(tmp_path, {**SAFE, **REFUSED}) == ["read"] * len(SAFE) + ["refused"] * len(REFUSED)


def _exercise(directory: Path, made: dict[str, Tables]) -> list[str]:
    for name, tables in made.items():
        write_index(tables, directory / name)
    done = subprocess.run(
        [sys.executable, "-m", "tests.index.exercise", *(directory / name for name in made)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return [line.partition(":")[0] for line in done.stdout.splitlines()]
