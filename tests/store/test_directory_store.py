from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import check_round_trip, store_at
from zerofs.errors import StoreError, StoreReadOnlyError, StoreRefusedError, StoreTimeoutError
from zerofs.store import base

BINARY = bytes(range(16))
TEXT = b"ab" * 32


def test_round_trip_makes_the_directory(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there yet"
    check_round_trip(store_at(f"dir://{tmp_path}/not/there%20yet"))
    files = [path for path in root.rglob("*") if path.is_file()]
    assert len(files) == 60
    assert all(path.parent.name == path.name[:2] and path.parent.parent == root for path in files)


def test_where_chunks_lie(tmp_path: Path) -> None:
    store = store_at(f"dir://{tmp_path}")
    store.put_many([(BINARY, b"binary"), (TEXT, b"text")], within())
    assert (tmp_path / "00" / BINARY.hex()).read_bytes() == b"binary"
    assert (tmp_path / "ab" / TEXT.decode()).read_bytes() == b"text"


def test_flat_names_are_found(tmp_path: Path) -> None:
    (tmp_path / BINARY.hex()).write_bytes(b"flat")
    (tmp_path / "ab").mkdir()
    store = store_at(f"dir://{tmp_path}")
    assert list(store.get_many([BINARY, b"ab"], within())) == [b"flat", None]
    assert store.exists_many([BINARY, b"ab"], within()) == [True, False]


@pytest.mark.parametrize(
    "hostile", [b"../escaped", b"..", b".", b"/etc/passwd", b"a/../../escaped", b"\0" * 3, b".x"]
)
def test_ids_that_climb_stay_inside(tmp_path: Path, hostile: bytes) -> None:
    root = tmp_path / "root"
    store = store_at(f"dir://{root}")
    store.put_many([(hostile, b"payload")], within())
    assert list(store.get_many([hostile], within())) == [b"payload"]
    assert [path.name for path in tmp_path.iterdir()] == ["root"]
    assert (root / hostile.hex()[:2] / hostile.hex()).exists()


@pytest.mark.parametrize("wrong", [b"", b"x" * 256, bytes(200)])
def test_ids_that_name_no_file(tmp_path: Path, wrong: bytes) -> None:
    with pytest.raises(StoreError, match="names no file"):
        list(store_at(f"dir://{tmp_path}").get_many([wrong], within()))


def test_a_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="no such directory"):
        list(store_at(f"dir://{tmp_path}/none").get_many([BINARY], within()))


def test_what_a_crash_leaves_counts_as_missing_and_is_written_again(tmp_path: Path) -> None:
    store = store_at(f"dir://{tmp_path}")
    (tmp_path / "00").mkdir()
    (tmp_path / "00" / BINARY.hex()).touch()
    (tmp_path / "00" / ".1-abcd.tmp").write_bytes(b"half")
    assert store.exists_many([BINARY], within()) == [False]
    assert list(store.get_many([BINARY], within())) == [None]
    store.put_many([(BINARY, b"whole")], within())
    assert list(store.get_many([BINARY], within())) == [b"whole"]


def test_a_fifo_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / BINARY.hex())
    assert must_end(lambda: list(store_at(f"dir://{tmp_path}").get_many([BINARY], within()))) == [None]


def test_a_file_larger_than_any_chunk(tmp_path: Path) -> None:
    with (tmp_path / BINARY.hex()).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match="more than any chunk"):
        list(store_at(f"dir://{tmp_path}").get_many([BINARY], within()))


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StoreError, match="No space left"):
        store_at(f"dir://{tmp_path}").put_many([(BINARY, b"x")], within())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_directory_that_may_not_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def denied(self: Path, data: bytes) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    with pytest.raises(StoreReadOnlyError):
        store_at(f"dir://{tmp_path}").put_many([(BINARY, b"x")], within())


def test_a_deadline_ends_a_long_batch(tmp_path: Path) -> None:
    with pytest.raises(StoreTimeoutError):
        list(store_at(f"dir://{tmp_path}").get_many([BINARY], within(-1)))


def test_batches_hold_what_is_there_and_stay_within_their_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(f"dir://{tmp_path}/store")
    items = [(bytes([n]) * 16, bytes([n]) * 1000) for n in range(10)]
    store.put_many(items, within())
    ids = [chunk_id for chunk_id, _ in items]
    assert list(store.get_batches(ids, within())) == [[payload for _, payload in items]]
    monkeypatch.setattr(base, "MAX_BATCH", 4000)
    assert [len(batch) for batch in store.get_batches([*ids, b"none" * 4], within())] == [4, 4, 3]
