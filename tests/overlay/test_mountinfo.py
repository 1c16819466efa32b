"""Reading the mount table, and telling the dead from the living."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.overlay.conftest import Server
from tests.support.sandbox import Sandbox
from zerofs.errors import MountError
from zerofs.mount import mountinfo
from zerofs.mount._linux import MS_BIND, mount
from zerofs.mount.unmount import clear_target, unmount

LINE = rb"36 35 98:0 /mnt\0401 /mnt\040two rw,noatime master:1 shared:7 - fuse.g8ufs 4242 rw,user_id=0,max_read=9"


def test_a_line_of_the_manual() -> None:
    [seen] = mountinfo.parse(LINE + b"\n")
    assert seen[:8] == (36, 35, "98:0", "/mnt 1", "/mnt two", "fuse.g8ufs", "4242", "rw,noatime")
    assert seen.is_ours
    assert seen.server == 4242
    assert seen.option("user_id") == "0"
    assert seen.option("user") is None


@pytest.mark.parametrize(
    "line", [b"", b"36 35 98:0 / /", b"36 35 98:0 / / rw - ext4", b"a b c d e f - g h i"]
)
def test_what_is_no_line(line: bytes) -> None:
    with pytest.raises(ValueError):
        mountinfo.parse(line + b"\n" + LINE)


_paths = st.binary(min_size=1, max_size=40).filter(lambda name: b"\0" not in name)


@given(_paths, _paths)
def test_names_come_back(below: bytes, source: bytes) -> None:
    target = b"/" + below  # a field "-" ends the optional ones

    def escaped(name: bytes) -> bytes:
        return re.sub(rb"[ \t\n\\#]", lambda match: b"\\%03o" % match[0][0], name)

    line = b"1 0 0:1 / %b rw - tmpfs %b rw" % (escaped(target), escaped(source))
    [seen] = mountinfo.parse(line + b"\n")
    assert (os.fsencode(seen.target), os.fsencode(seen.source)) == (target, source)


_layers = st.lists(st.text("ab:,\\ /", min_size=1, max_size=8), min_size=1, max_size=4)


@given(_layers)
def test_lower_layers_come_back(layers: list[str]) -> None:
    given = ":".join(re.sub(r"([\\:,])", r"\\\1", layer) for layer in layers)
    shown = re.sub(r"[ ,\\]", lambda match: f"\\{ord(match[0]):03o}", given)
    [seen] = mountinfo.parse(f"1 0 0:1 / / rw - overlay overlay rw,lowerdir={shown},xino=on\n".encode())
    assert seen.lower_dirs() == layers


def test_the_one_on_top_and_the_one_around(sandbox: Sandbox) -> None:
    place = sandbox.directory("here")
    assert mountinfo.top(place) is None
    mount("first", place, "tmpfs")
    (place / "sub").mkdir()
    mount("second", place, "tmpfs")
    (place / "sub").mkdir()
    try:
        assert [seen.source for seen in mountinfo.at(place)] == ["first", "second"]
        top = mountinfo.top(place)
        assert top is not None
        assert top.source == "second"
        assert mountinfo.holding(place / "sub/deep") == top
        assert mountinfo.holding(sandbox.path / "hereafter") == mountinfo.holding(sandbox.path)
    finally:
        unmount(place)
        unmount(place)
    assert not unmount(place)


def test_a_place_is_named_as_the_table_names_it(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    real = sandbox.directory("real/target")
    (sandbox.path / "way").symlink_to("real")
    (sandbox.path / "link").symlink_to("way/../way/target")
    monkeypatch.chdir(sandbox.path)
    for name in ("real/target", "way/target", "link", "./link/", "real/target/.", "real/../way/target"):
        assert mountinfo.locate(name) == real
    assert mountinfo.locate("not/there") == sandbox.path / "not/there"
    assert mountinfo.locate("/") == Path("/")
    (sandbox.path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="Too many"):
        mountinfo.locate("loop")


# -- the dead and the living ---------------------------------------------------------------


def test_a_living_flist_makes_the_target_busy(sandbox: Sandbox, serve: Callable[[Path], Server]) -> None:
    place = sandbox.directory("ro")
    server = serve(place)
    with pytest.raises(MountError, match=f"busy.* process {server.process.pid}") as caught:
        clear_target(place)
    assert caught.value.exit_code == 5
    assert mountinfo.top(place) is not None


def test_a_dead_flist_is_taken_down(sandbox: Sandbox, serve: Callable[[Path], Server]) -> None:
    place = sandbox.directory("ro")
    server = serve(place)
    assert sorted(os.listdir(place)) == ["dir", "link", "plain", "suid"]
    place.stat()
    server.kill()
    place.stat()  # the kernel still knows: that says nothing about the server
    seen = mountinfo.top(place)
    assert seen is not None
    assert mountinfo.is_dead(seen)
    clear_target(place)
    assert mountinfo.top(place) is None


def test_a_server_that_says_nothing_is_not_dead(sandbox: Sandbox, serve: Callable[[Path], Server]) -> None:
    place = sandbox.directory("ro")
    server = serve(place)
    server.process.send_signal(signal.SIGSTOP)
    seen = mountinfo.top(place)
    assert seen is not None
    assert not mountinfo.is_dead(seen, timeout=0.1)
    assert mountinfo.locate(place) == place
    server.process.send_signal(signal.SIGCONT)


def test_mounts_of_others_stay(sandbox: Sandbox) -> None:
    place = sandbox.directory("here")
    mount("none", place, "tmpfs")
    mount(sandbox.directory("other"), place, None, MS_BIND)
    try:
        clear_target(place)
        assert len(mountinfo.at(place)) == 2
    finally:
        unmount(place)
        unmount(place)


def test_a_link_is_not_unmounted_through(sandbox: Sandbox) -> None:
    place = sandbox.directory("here")
    (sandbox.path / "link").symlink_to(place)
    mount("none", place, "tmpfs")
    assert not unmount(sandbox.path / "link")
    assert not unmount(sandbox.path / "not there")
    assert unmount(place)
