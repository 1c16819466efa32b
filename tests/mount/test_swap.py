"""SIGHUP lays further flists over the tree, live, also through the overlay."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.versions import VersionReaders, shown, write_version
from tests.support.waiter import Waiting
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting an overlay takes root")


def base(root: Path) -> None:
    write(root / "kept", "kept")
    write(root / "replaced", "old bytes")
    write(root / "held", "old, and held open")
    write(root / "turns/into-a-file/x", "below")
    write(root / "dir/one", "one")


def update(root: Path) -> None:
    write(root / "fresh", "fresh")
    write(root / "replaced", "new bytes, and more of them")
    write(root / "held", "new")
    write(root / "turns/into-a-file", "a file")
    write(root / "dir/two", "two")
    write(root / "newdir/deep/file", "deep")


@pytest.fixture
def backend(sandbox: Sandbox) -> Path:
    return sandbox.directory("backend")


@pytest.fixture
def mount(pack: Callable[..., Image], mounted: Callable[..., MountProcess], backend: Path) -> MountProcess:
    return mounted(pack("base", base), "--backend", backend, "--reset")


def hang_up(mount: MountProcess, backend: Path, *layers: Path) -> None:
    (backend / ".layered").write_text("\n\n".join(map(str, layers)))  # empty lines, no newline at the end
    count = mount.log().count("swapped the tree")
    mount.process.send_signal(signal.SIGHUP)
    eventually(lambda: mount.log().count("swapped the tree") > count, "the swap")


def test_swaps_through_the_overlay(mount: MountProcess, backend: Path, pack: Callable[..., Image]) -> None:
    root = mount.target
    assert not (root / "fresh").exists()  # a name once missing, and remembered as missing
    assert (root / "kept").read_text() == "kept"
    kept = (root / "kept").stat()
    (root / "mine").write_text("in the read-write layer")
    held = (root / "held").open()
    inside = os.open(root / "dir", os.O_RDONLY)
    hang_up(mount, backend, pack("update", update).flist)

    assert (root / "fresh").read_text() == "fresh"
    assert (root / "replaced").read_text() == "new bytes, and more of them"
    assert (root / "replaced").stat().st_size == len("new bytes, and more of them")
    assert (root / "turns/into-a-file").read_text() == "a file"
    assert (root / "newdir/deep/file").read_text() == "deep"
    assert sorted(os.listdir(root / "dir")) == sorted(os.listdir(inside)) == ["one", "two"]
    assert (root / "mine").read_text() == "in the read-write layer"
    after = (root / "kept").stat()
    assert (after.st_ino, after.st_dev) == (kept.st_ino, kept.st_dev)

    # what is held keeps its bytes, and its path never fails; it leads to the new file once it is released
    assert held.read() == "old, and held open"
    assert (root / "held").read_text() in ("old, and held open", "new")
    held.close()
    os.close(inside)
    eventually(lambda: (root / "held").read_text() == "new", "the new file under a name that was held")


def test_swaps_under_readers_of_what_is_replaced(
    mounted: Callable[..., MountProcess], backend: Path, pack: Callable[..., Image], sandbox: Sandbox
) -> None:
    """They open, hold and close the same few names all the time: none fails, and none shows an older file again."""
    images = [pack(f"v{n}", partial(write_version, version=n)) for n in range(4)]
    mount = mounted(images[0], "--backend", backend, "--reset")
    with VersionReaders(mount.target, sandbox.path / "stop"):
        for image in images[1:]:
            hang_up(mount, backend, image.flist)
            time.sleep(0.2)
        eventually(lambda: shown(mount.target) == {3}, "the last version")


def test_killed_while_it_waits_for_a_reader_of_its_own(
    pack: Callable[..., Image], sandbox: Sandbox, backend: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reader sees an error, as after every death; and the place can be mounted at again."""
    waiting, hook = Waiting(sandbox), sandbox.directory("hook")
    (hook / "sitecustomize.py").write_text(
        f"import sys\nif 'g8ufs' in sys.orig_argv[1]:\n    exec({waiting.code!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    image = pack("base", base)
    options = ("--meta", image.flist, "--ro", "--backend", backend, "--cache", sandbox.path / "cache")
    mount = sandbox.mount(*options, "--engine", "fast", "--storage-url", f"dir://{image.store}")
    monkeypatch.delenv("PYTHONPATH")
    layer = pack("update", update).flist

    def swap() -> None:
        (backend / ".layered").write_text(str(layer))
        mount.process.send_signal(signal.SIGHUP)

    status, said = waiting.kill(mount.pid, mount.target, swap)
    assert (status, said) == (1, "")
    assert mount.wait() == -signal.SIGKILL
    sandbox.run("zerofs", "umount", mount.target)


def test_swaps_again_and_back(mount: MountProcess, backend: Path, pack: Callable[..., Image]) -> None:
    root = mount.target
    flist = pack("update", update).flist
    for _ in range(3):
        hang_up(mount, backend, flist)
        eventually(lambda: (root / "replaced").read_text() == "new bytes, and more of them", "the update")
        assert (root / "dir/two").exists()
        hang_up(mount, backend)
        eventually(lambda: (root / "replaced").read_text() == "old bytes", "the way back")
        assert not (root / "fresh").exists() and not (root / "dir/two").exists()
        assert (root / "turns/into-a-file/x").read_text() == "below"


def test_the_last_line_is_on_top(mount: MountProcess, backend: Path, pack: Callable[..., Image]) -> None:
    low = pack("low", lambda root: write(root / "replaced", "low"))
    high = pack("high", lambda root: write(root / "replaced", "high"))
    hang_up(mount, backend, low.flist, high.flist)
    assert (mount.target / "replaced").read_text() == "high"


def test_without_a_file_nothing_happens(mount: MountProcess) -> None:
    mount.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert mount.process.poll() is None
    assert (mount.target / "kept").read_text() == "kept"
    assert "swapped" not in mount.log()


def test_a_failing_swap_keeps_the_old_tree(
    pack: Callable[..., Image], mounted: Callable[..., MountProcess], backend: Path, sandbox: Sandbox
) -> None:
    mount = mounted(pack("base", base), "--backend", backend, allow=["the old one stays"])
    for bad in (sandbox.path / "missing.flist", write(sandbox.path / "bad.flist", "no flist at all")):
        (backend / ".layered").write_text(f"{bad}\n")
        count = mount.log().count("the old one stays")
        mount.process.send_signal(signal.SIGHUP)
        eventually(lambda count=count: mount.log().count("the old one stays") > count, "the refusal")
        assert str(bad) in mount.log()
    assert (mount.target / "replaced").read_text() == "old bytes"


def test_swaps_a_read_only_mount(
    pack: Callable[..., Image], mounted: Callable[..., MountProcess], backend: Path
) -> None:
    mount = mounted(pack("base", base), "--backend", backend, "--ro")
    root = mount.target
    assert not (root / "fresh").exists()
    with (root / "held").open() as held:
        hang_up(mount, backend, pack("update", update).flist)
        assert (root / "fresh").read_text() == "fresh"
        assert (root / "held").read_text() == "new"
        assert held.read() == "old, and held open"


def test_several_flists_are_layered(pack: Callable[..., Image], sandbox: Sandbox) -> None:
    low, high = pack("base", base), pack("update", update)
    mount = sandbox.mount(
        *("--meta", low.flist, "--meta", high.flist, "--ro", "--storage-url", f"dir://{low.store}"),
        *("--cache", sandbox.path / "cache"),
    )
    root = mount.target
    assert (root / "replaced").read_text() == "new bytes, and more of them"
    assert (root / "kept").read_text() == "kept"
    assert (root / "turns/into-a-file").read_text() == "a file"
    assert sorted(os.listdir(root / "dir")) == ["one", "two"]
