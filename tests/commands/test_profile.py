"""`zerofs profile`, and profiles that are shipped with flists."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.commands.conftest import Packed, Zerofs, pack
from zerofs.flist.layout import MAX_PROFILE, PROFILE_NAME
from zerofs.flist.load import load_flist, profile_path
from zerofs.prefetch.profile import Entry, Profile, read_profile, write_profile


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def content_hash(packed: Packed, zerofs: Zerofs) -> bytes:
    return bytes.fromhex(zerofs("info", "--json", packed.flist).json["content_hash"])


def profile_file(path: Path, content_hash: bytes, *numbers: int) -> Path:
    write_profile(Profile(content_hash, 1, tuple(Entry(n, at * 100) for at, n in enumerate(numbers))), path)
    return path


def test_what_is_imported_is_shown_and_exported(
    zerofs: Zerofs, packed: Packed, cache: Path, content_hash: bytes, tmp_path: Path
) -> None:
    first = profile_file(tmp_path / "1", content_hash, 0, 1)
    second = profile_file(tmp_path / "2", content_hash, 0, 2)
    zerofs("profile", "import", "--cache", cache, packed.flist, first)
    done = zerofs("profile", "import", "--json", "--cache", cache, packed.flist, second).json
    assert done == {
        "content_hash": content_hash.hex(),
        "recordings": 2,
        "chunks": 3,
        "seconds": 0.1,
    }
    zerofs("profile", "export", "--cache", cache, packed.flist, "-o", tmp_path / "out")
    shown = zerofs("profile", "show", "--json", tmp_path / "out").json
    assert shown == zerofs("profile", "show", "--json", "--cache", cache, packed.flist).json
    assert shown["entries"][0] == {"number": 0, "at": 0, "wanted": 2}
    assert "chunk 2" in zerofs("profile", "show", tmp_path / "out").out


def test_profiles_merge(zerofs: Zerofs, content_hash: bytes, tmp_path: Path) -> None:
    paths = [profile_file(tmp_path / str(n), content_hash, n, 0) for n in (1, 2)]
    zerofs("profile", "merge", *paths, "-o", tmp_path / "both")
    both = read_profile(tmp_path / "both")
    assert both.recordings == 2
    assert [entry.number for entry in both.entries] == [0, 1, 2]


def test_mistakes_are_told_in_one_line(
    zerofs: Zerofs, packed: Packed, cache: Path, content_hash: bytes, tmp_path: Path
) -> None:
    own = profile_file(tmp_path / "own", content_hash, 0)
    other = profile_file(tmp_path / "other", bytes(32), 0)
    assert "different flists" in zerofs("profile", "merge", own, other, "-o", tmp_path / "x", status=1).err
    assert "another flist" in zerofs("profile", "add", packed.flist, other, status=1).err
    assert "another flist" in zerofs("profile", "import", "--cache", cache, packed.flist, other, status=1).err
    assert "has recorded anything" in zerofs("profile", "show", "--cache", cache, packed.flist, status=1).err
    assert "no --cache" in zerofs("profile", "show", packed.flist, status=2).err
    assert (
        "there is no profile"
        in zerofs("profile", "merge", tmp_path / "none", "-o", tmp_path / "x", status=1).err
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("form", ["rocksdb", "sqlite"])
def test_a_shipped_profile_reaches_the_cache_of_who_loads_the_flist(
    zerofs: Zerofs, packed: Packed, cache: Path, tmp_path: Path, form: str
) -> None:
    flist = pack(zerofs, packed.tree, tmp_path / f"{form}.flist", "--format", form).flist
    before = zerofs("info", "--json", flist).json
    profile = profile_file(tmp_path / "p", bytes.fromhex(before["content_hash"]), 1, 0)
    zerofs("profile", "add", flist, profile, "-o", tmp_path / "shipped.flist")
    zerofs(
        "profile", "add", tmp_path / "shipped.flist", profile
    )  # once more: it takes the place of the first
    with tarfile.open(tmp_path / "shipped.flist") as tar:
        assert tar.getnames().count(PROFILE_NAME) == 1
    after = zerofs("info", "--json", tmp_path / "shipped.flist").json
    assert {**after, "flist": ""} == {**before, "flist": ""}
    flist_index = load_flist(str(tmp_path / "shipped.flist"), cache / "flists").index
    assert read_profile(profile_path(cache / "flists", flist_index.content_hash)) == read_profile(profile)


def test_a_shipped_profile_leaves_that_of_the_host_alone(
    zerofs: Zerofs, packed: Packed, cache: Path, content_hash: bytes, tmp_path: Path
) -> None:
    zerofs("profile", "import", "--cache", cache, packed.flist, profile_file(tmp_path / "1", content_hash, 2))
    zerofs("profile", "add", packed.flist, profile_file(tmp_path / "2", content_hash, 1))
    load_flist(str(packed.flist), cache / "flists")
    kept = read_profile(profile_path(cache / "flists", content_hash))
    assert [entry.number for entry in kept.entries] == [2]


def test_an_unpacked_flist_brings_its_profile_along(
    zerofs: Zerofs, packed: Packed, cache: Path, content_hash: bytes, tmp_path: Path
) -> None:
    zerofs("profile", "add", packed.flist, profile_file(tmp_path / "p", content_hash, 1))
    directory = tmp_path / "unpacked"
    directory.mkdir()
    subprocess.run(["tar", "-xf", packed.flist, "-C", directory], check=True)
    load_flist(str(directory), cache / "flists")
    assert profile_path(cache / "flists", content_hash).exists()


def test_a_member_that_is_too_large_to_be_a_profile_is_passed_over(
    zerofs: Zerofs, packed: Packed, cache: Path, content_hash: bytes, tmp_path: Path
) -> None:
    directory = tmp_path / "unpacked"
    directory.mkdir()
    subprocess.run(["tar", "-xf", packed.flist, "-C", directory], check=True)
    (directory / PROFILE_NAME).write_bytes(bytes(MAX_PROFILE + 1))
    archive = tmp_path / "large.flist"
    subprocess.run(["tar", "-czf", archive, "-C", directory, "."], check=True)
    for argument in (archive, directory):
        assert load_flist(str(argument), cache / "flists").index.content_hash == content_hash
        assert not profile_path(cache / "flists", content_hash).exists()


def test_a_flist_without_an_archive_holds_none(zerofs: Zerofs, packed: Packed, tmp_path: Path) -> None:
    flist = pack(zerofs, packed.tree, tmp_path / "x.fl", "--format", "fl").flist
    content = bytes.fromhex(zerofs("info", "--json", flist).json["content_hash"])
    before = flist.read_bytes()
    done = zerofs("profile", "add", flist, profile_file(tmp_path / "p", content, 0), status=2)
    assert "no tar" in done.err
    assert flist.read_bytes() == before


def test_help_has_examples(zerofs: Zerofs) -> None:
    assert "examples:\n  zerofs profile show " in zerofs("profile", "--help").out
