"""`store check`: whether all chunks of a flist can be had, and who needs those that cannot."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs
from tests.commands.test_store_copy import held
from tests.support.redisserver import free_port
from zerofs.cli import main
from zerofs.flist.load import load_flist
from zerofs.flist.model import Kind
from zerofs.store.ids import id_text


def users(packed: Packed, tmp_path: Path) -> dict[str, list[str]]:
    """The files that need each chunk, by its id."""
    index = load_flist(str(packed.flist), tmp_path / "state").index
    found: dict[str, list[str]] = {}
    for path, row in index.walk():
        if index.node(row).kind is Kind.FILE:
            for number in dict.fromkeys(index.refs(row)):
                found.setdefault(id_text(index.chunk(number).id), []).append(
                    path.decode("utf-8", "surrogateescape")
                )
    return found


def place(packed: Packed, name: str) -> Path:
    return packed.chunks / name[:2] / name


def test_all_are_there(zerofs: Zerofs, packed: Packed) -> None:
    before = held(packed.chunks)
    found = zerofs("store", "check", "--json", packed.flist).json
    assert found["chunks"] == len(before) and found["lacking"] == []
    assert found["payload_bytes"] == sum(map(len, before.values()))
    (store,) = found["stores"]
    assert store == {
        "store": f"dir://{packed.chunks}", "chunks": len(before), "bytes": found["payload_bytes"],
        "missing": 0, "rejected": 0, "errors": 0,
    }  # fmt: skip
    assert held(packed.chunks) == before
    assert "all can be had" in zerofs("store", "check", packed.flist).out


def test_what_is_lacking_is_named_with_its_files(
    zerofs: Zerofs, packed: Packed, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    needed = users(packed, tmp_path)
    gone, rotten = sorted(needed)[:2]
    place(packed, gone).unlink()
    place(packed, rotten).write_bytes(b"rotten")
    assert main(["store", "check", str(packed.flist)]) == 1
    said = capfd.readouterr().out
    assert said.count("lacking: ") == 2 and gone in said and "2 cannot be had" in said
    assert main(["store", "check", "--json", str(packed.flist)]) == 1
    found = json.loads(capfd.readouterr().out)
    assert {each["id"]: each["files"] for each in found["lacking"]} == {
        name: needed[name] for name in (gone, rotten)
    }
    assert found["chunks"] == len(needed)
    assert (found["stores"][0]["missing"], found["stores"][0]["rejected"]) == (1, 1)


def test_what_cannot_be_read_is_lacking_and_the_others_go_on(
    packed: Packed, capfd: pytest.CaptureFixture[str]
) -> None:
    unreadable, gone = sorted(held(packed.chunks))[:2]
    os.truncate(place(packed, unreadable), 1 << 30)  # more than any chunk has
    place(packed, gone).unlink()
    assert main(["store", "check", "--json", str(packed.flist)]) == 1
    found = json.loads(capfd.readouterr().out)
    assert sorted(each["id"] for each in found["lacking"]) == [unreadable, gone]
    assert found["chunks"] == len(held(packed.chunks)) + 1


def test_what_one_replica_lacks_is_only_counted(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    other = tmp_path / "other"
    zerofs("store", "copy", packed.flist, "--to", f"dir://{other}")
    name = min(held(packed.chunks))
    place(packed, name).unlink()
    router = tmp_path / "router.yaml"
    router.write_text(
        f"pools:\n  here: {{'00:ff': dir://{packed.chunks}}}\n  there: {{'00:ff': dir://{other}}}\n"
        "lookup: [here, there]\n"
    )
    found = zerofs("store", "check", "--json", "--local-router", router, packed.flist).json
    assert found["lacking"] == []
    assert [(store["missing"], store["chunks"]) for store in found["stores"]][:2] == [
        (1, found["chunks"] - 1),
        (0, 1),
    ]
    assert zerofs("store", "check", "--json", "--from", f"dir://{other}", packed.flist).json["lacking"] == []


def test_a_store_that_is_down_is_no_verdict(zerofs: Zerofs, packed: Packed) -> None:
    url = f"redis://127.0.0.1:{free_port()}"
    said = zerofs("store", "check", "--json", "--from", url, "--timeout", "0.5", packed.flist, status=1)
    assert url in said.err and said.out == ""


def test_help_of_store_check(zerofs: Zerofs) -> None:
    assert "examples:\n  zerofs store check " in zerofs("store", "check", "--help").out
