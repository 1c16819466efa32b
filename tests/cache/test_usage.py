"""What was used lately: said by all users of a cache, kept by live mounts, and never worth a process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cache.support import chunk
from zerofs._fast import RECENCY_SIZE
from zerofs.cache import usage
from zerofs.cache.usage import FILE, Usage

NAMES = [chunk(number, 0)[0] for number in range(1000)]
ROOT = Path(__file__).resolve().parents[2]


def test_what_one_process_uses_all_see(tmp_path: Path) -> None:
    ours = Usage(tmp_path, 1 << 20)
    program = (
        "import sys\nfrom pathlib import Path\nfrom tests.cache.support import chunk\n"
        "from zerofs.cache.usage import Usage\n"
        "Usage(Path(sys.argv[1]), 1).use(chunk(7, 0)[0])\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT, check=True)
    assert [ours.was_used(name) for name in NAMES[:10]] == [number == 7 for number in range(10)]
    ours.pass_by(NAMES[7])
    assert not Usage(tmp_path, 1 << 20).was_used(NAMES[7])


def test_names_of_all_lengths_have_slots_that_seldom_meet(tmp_path: Path) -> None:
    ours = Usage(tmp_path, 1 << 20)
    for name in (b"", b"a", b"12345678", b"123456789", b"x" * 500):
        ours.use(name)
        assert ours.was_used(name)
    texts = [b"\x01" + name[1:].hex().encode() * 2 for name in NAMES]
    for names in (NAMES, texts):
        for name in names[::2]:
            ours.use(name)
        assert sum(ours.was_used(name) for name in names[1::2]) < 10  # of 500, in a million slots


def test_a_hold_ends_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, others = Usage(tmp_path, 1 << 20), Usage(tmp_path, 1 << 20)
    now = [1_000_000.0]
    monkeypatch.setattr(usage.time, "time", lambda: now[0])
    working = ours.working_set()
    working.grow(3)
    working.found(1, NAMES[1], 4096)
    for minutes in (0, 253, 254, 255, 256):  # the byte of the epoch comes round
        now[0] = 1_000_000.0 + minutes * usage.EPOCH
        ours.hold()
        assert [others.is_held(name) for name in NAMES[:3]] == [False, True, False]
        now[0] += 2 * usage.EPOCH
        assert others.is_held(NAMES[1])
        now[0] += usage.EPOCH
        assert not others.is_held(NAMES[1])
    working.grow(1000)  # a live swap
    ours.hold()
    assert others.is_held(NAMES[1])
    now[0] += 3 * usage.EPOCH
    del working
    ours.hold()
    assert not others.is_held(NAMES[1])


def test_one_mount_holds_no_more_than_its_share(tmp_path: Path) -> None:
    ours = Usage(tmp_path, 1 << 20)
    working = ours.working_set()
    working.grow(1000)
    for number, name in enumerate(NAMES):  # a megabyte, of which it may hold half
        working.found(number, name, 1024)
    ours.hold()
    assert [ours.is_held(name) for name in NAMES[:512]] == [True] * 512
    assert sum(map(ours.is_held, NAMES[512:])) < 5
    assert all(map(ours.was_used, NAMES))
    with pytest.raises(IndexError):
        working.found(1000, NAMES[0], 1)


@pytest.mark.parametrize("size", [0, 1, 4096, RECENCY_SIZE - 1])
def test_a_file_that_is_cut_under_the_map_ends_nobody(size: int, tmp_path: Path) -> None:
    ours = Usage(tmp_path, 1 << 20)
    os.truncate(tmp_path / FILE, size)
    for name in NAMES:
        ours.use(name)
        assert ours.was_used(name)
    again = Usage(tmp_path, 1 << 20)
    assert (tmp_path / FILE).stat().st_size == RECENCY_SIZE
    again.use(NAMES[0])
    assert again.was_used(NAMES[0])


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_without_the_file_it_knows_its_own(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "directory":
        (tmp_path / FILE).mkdir()
    else:
        (tmp_path / FILE).symlink_to(victim)
    ours = Usage(tmp_path, 1 << 20)
    ours.use(NAMES[0])
    assert ours.was_used(NAMES[0]) and not ours.was_used(NAMES[1])
    assert victim.read_bytes() == b"precious"
    assert "not shared" in caplog.text


def test_who_waits_for_a_question_is_woken_by_another_process(tmp_path: Path) -> None:
    ours = Usage(tmp_path, 1 << 20)
    seen = ours.await_asked(0, 0.0)
    assert ours.await_asked(seen, 0.01) == seen
    program = (
        "import sys\nfrom pathlib import Path\nfrom zerofs.cache.usage import Usage\n"
        "Usage(Path(sys.argv[1]), 1).ask_readers()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], cwd=ROOT)
    begun = time.monotonic()
    while (now := ours.await_asked(seen, 600.0)) == seen:
        pass  # it may wake for no reason
    assert time.monotonic() - begun < 300, "by the other process, not by the time"
    assert ours.await_asked(seen, 600.0) == now, "what was asked before is not waited for"
    assert process.wait() == 0


def test_without_a_file_a_process_asks_itself(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    ours = Usage(tmp_path, 1 << 20)
    seen = ours.await_asked(0, 0.0)
    ours.ask_readers()
    assert ours.await_asked(seen, 600.0) == seen + 1
