"""Owners and modes: numbers, names of this host, and what stands in for them."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path

import pytest

from tests.flist.samples import SCHEMA, key_of, sqlite_directory
from zerofs.flist.model import Attributes
from zerofs.flist.owners import Owners, resolve
from zerofs.flist.sqlite import SqliteReader


def attributes(directory: Path, owner: dict[str, object] | None) -> tuple[Attributes, dict[str, int]]:
    """What the root shows whose ACI is `owner`, and the names that were resolved."""
    records = {key_of(b""): SCHEMA.Dir.new_message(aclkey="any text", modificationTime=7).to_bytes()}
    if owner is not None:
        records["any text"] = SCHEMA.ACI.new_message(**owner).to_bytes()
    reader = SqliteReader(sqlite_directory(directory, records) / "flistdb.sqlite3")
    found = reader.directory(reader.root())
    reader.close()
    assert found is not None
    return found.attributes, reader.names


@pytest.mark.parametrize("mode", [0o40000, 0o100000, 0])
def test_a_full_mode_and_permission_bits_are_the_same(tmp_path: Path, mode: int) -> None:
    found, names = attributes(tmp_path / "flist", {"mode": mode | 0o7751, "uid": 5, "gid": 6})
    assert found == Attributes(0o7751, 5, 6, 7, 0)
    assert names == {}


def test_no_aci(tmp_path: Path) -> None:
    assert attributes(tmp_path / "flist", None)[0] == Attributes(0o400, 1000, 1000, 7, 0)


def test_names_of_this_host(tmp_path: Path) -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    found, names = attributes(tmp_path / "flist", {"uname": user.pw_name, "gname": group.gr_name})
    assert (found.uid, found.gid) == (user.pw_uid, group.gr_gid)
    assert names == {f"u:{user.pw_name}": user.pw_uid, f"g:{group.gr_name}": group.gr_gid}


def test_numbers_win_over_names(tmp_path: Path) -> None:
    found, names = attributes(
        tmp_path / "flist", {"uname": "root", "gname": "root", "uid": 3, "gid": 2**32 - 2}
    )
    assert (found.uid, found.gid, names) == (3, 2**32 - 2, {})


@pytest.mark.parametrize("number", [-1, -2, 2**32 - 1, 2**40])
def test_numbers_that_are_none_go_by_name(tmp_path: Path, number: int) -> None:
    found, _ = attributes(
        tmp_path / "flist", {"uname": "root", "gname": "nobody knows", "uid": number, "gid": number}
    )
    assert (found.uid, found.gid) == (0, 1000)


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("0", 0),
        ("4294967294", 2**32 - 2),
        ("4294967295", 1000),
        ("9" * 100, 1000),
        ("", 1000),
        ("-1", 1000),
        ("²", 1000),
        ("nobody knows", 1000),
        ("a\0b", 1000),
        ("\udcff", 1000),
    ],
)
def test_names(name: str, id: int) -> None:
    assert (resolve(f"u:{name}"), resolve(f"g:{name}")) == (id, id)


def test_what_was_resolved_is_remembered() -> None:
    owners = Owners()
    assert owners.user(-1, b"root") == 0
    assert owners.group(-1, b"\xff" * 1000) == 1000
    assert owners.names == {"u:root": 0, "g:" + "\udcff" * 256: 1000}
