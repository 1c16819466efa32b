"""The load: what it asks for, and that a wrong answer is a failure."""

import os

import pytest

from zerofs.bench.corpus import Corpus, large_file, synthetic_image
from zerofs.bench.names import SMALL, make_lists
from zerofs.bench.work import Load, compile_helper
from zerofs.errors import MountError


@pytest.fixture(scope="module")
def helper(tmp_path_factory):
    return compile_helper(tmp_path_factory.mktemp("helper"))


@pytest.fixture
def image(tmp_path):
    return synthetic_image(tmp_path / "image", 60)


def test_lists_name_what_is_there_and_what_is_not(tmp_path):
    tree = tmp_path / "tree"
    (tree / "usr/bin").mkdir(parents=True)
    (tree / "usr/bin/small").write_bytes(b"x" * SMALL)
    (tree / "usr/bin/big").write_bytes(b"x" * (SMALL + 1))
    (tree / "usr/bin/empty").touch()
    (tree / "link").symlink_to("nowhere")
    lists = make_lists(tree, tmp_path / "lists")
    names = lists.entries.path.read_bytes().split(b"\0")[:-1]
    assert sorted(names) == [b"link", b"usr", b"usr/bin", b"usr/bin/big", b"usr/bin/empty", b"usr/bin/small"]
    assert (lists.small_files.number, lists.small_files.size) == (1, SMALL)
    for missing in (lists.commands, lists.modules):
        assert missing.number > 0
        for name in missing.path.read_bytes().split(b"\0")[:-1]:
            assert not os.path.lexists(os.fsencode(tree) + b"/" + name)
    assert lists.commands.path.read_bytes().startswith(b"usr/bin/")


def test_all_work_takes_time_and_finds_what_is_there(helper, image, tmp_path):
    load = Load(helper, image, tmp_path)
    load.rehearse()
    root = image.directory
    assert load.walk(root) > 0
    assert load.tar(root) > 0
    assert all(load.stat(root, threads) > 0 for threads in (1, 8))
    assert load.look_for_commands(root) > 0
    assert load.look_for_modules(root) > 0
    assert load.small_files(root) > 0


@pytest.mark.parametrize("size", [1, 4095, 4096, 300_001, 1 << 20])
def test_readers_read_every_byte_between_them(helper, tmp_path, size):
    file = large_file(tmp_path, size, quick=True)
    load = Load(helper, file, tmp_path)
    assert load.sequential(file.directory, 4096) > 0
    assert load.sequential(file.directory) > 0
    assert load.readers(file.directory) > 0
    assert load.unevenness(file.directory) >= 1
    assert load.random(file.directory) >= 0


def test_a_tree_that_answers_wrongly_is_a_failure(helper, image, tmp_path):
    load = Load(helper, image, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(MountError, match="0 entries instead of"):
        load.stat(other, 1)
    with pytest.raises(MountError, match="No such file"):
        load.small_files(other)
    victim = next(path for path in image.directory.rglob("*.bin") if path.stat().st_size > 1)
    victim.write_bytes(b"")
    with pytest.raises(MountError, match="bytes instead of"):
        load.small_files(image.directory)
    lists = tmp_path / "load-image"
    name = (lists / "commands").read_bytes().split(b"\0")[0]
    (image.directory / os.fsdecode(name)).touch()
    with pytest.raises(MountError, match="5 entries instead of 0"):
        load.look_for_commands(image.directory)


def test_a_short_large_file_is_a_failure(helper, tmp_path):
    file = large_file(tmp_path, 100_000, quick=True)
    load = Load(helper, file, tmp_path)
    other = Corpus("file", tmp_path / "other", "shorter")
    other.directory.mkdir()
    (other.directory / "large").write_bytes(b"x")
    with pytest.raises(MountError, match="1 bytes instead of 100,000"):
        load.sequential(other.directory)
