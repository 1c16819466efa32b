"""The wrappers of system calls: errors with number and path, and no way past a mount or a link."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from tests.support.sandbox import Sandbox
from zerofs.mount import _linux


@pytest.mark.parametrize(
    "call",
    [
        lambda path: _linux.mount("none", path, "tmpfs"),
        lambda path: _linux.umount(path),
        lambda path: _linux.inotify_add_watch(_watching(), path, _linux.IN_UNMOUNT),
        lambda path: _linux.open_beneath(os.open("/", os.O_PATH), path.removeprefix("/"), os.O_RDONLY),
    ],
)
def test_an_error_names_the_path(sandbox: Sandbox, call) -> None:  # type: ignore[no-untyped-def]
    path = os.fspath(sandbox.path / "not there é")
    with pytest.raises(FileNotFoundError) as caught:
        call(path)
    assert caught.value.errno == errno.ENOENT
    assert path.endswith(caught.value.filename)
    with pytest.raises(ValueError, match="null byte"):
        call(path + "\0")


def _watching() -> int:
    return _linux.inotify_init()


def test_no_events_yet() -> None:
    fd = _linux.inotify_init()
    with pytest.raises(BlockingIOError):
        _linux.inotify_read(fd)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_events_of_several_watches_are_told_apart(sandbox: Sandbox) -> None:
    fd = _linux.inotify_init()
    watches = []
    for name in ("one", "two"):
        watches.append(_linux.inotify_add_watch(fd, sandbox.directory(name), _linux.IN_DELETE_SELF))
        (sandbox.path / name).rmdir()
    events = _linux.inotify_read(fd)
    os.close(fd)
    deleted = [watch for watch, mask in events if mask & _linux.IN_DELETE_SELF]
    assert deleted == watches
    assert [watch for watch, mask in events if mask & _linux.IN_IGNORED] == watches


def test_links_and_mounts_are_not_passed(sandbox: Sandbox) -> None:
    sandbox.directory("a/b")
    sandbox.directory("mounted")
    (sandbox.path / "link").symlink_to("a")
    _linux.mount(sandbox.path / "a", sandbox.path / "mounted", None, _linux.MS_BIND)
    top = os.open(sandbox.path, os.O_RDONLY)
    try:
        inside = _linux.open_beneath(top, b"a/b", os.O_RDONLY)
        assert not os.get_inheritable(inside)
        os.close(inside)
        for name, number in (("link/b", errno.ELOOP), ("mounted", errno.EXDEV), ("mounted/b", errno.EXDEV)):
            with pytest.raises(OSError) as caught:
                _linux.open_beneath(top, name, os.O_RDONLY)
            assert caught.value.errno == number
    finally:
        os.close(top)
        _linux.umount(sandbox.path / "mounted", _linux.UMOUNT_NOFOLLOW)


def test_a_link_is_not_unmounted_through(sandbox: Sandbox) -> None:
    place = sandbox.directory("mounted")
    (sandbox.path / "link").symlink_to(place)
    _linux.mount("none", place, "tmpfs")
    with pytest.raises(OSError) as caught:
        _linux.umount(sandbox.path / "link", _linux.UMOUNT_NOFOLLOW)
    assert caught.value.errno == errno.EINVAL
    _linux.umount(place, _linux.MNT_DETACH)


def test_a_namespace_of_its_own(sandbox: Sandbox) -> None:
    script = (
        "from zerofs.mount import _linux, mountinfo\n"
        "_linux.unshare(_linux.CLONE_NEWNS)\n"
        "_linux.mount('none', '/', None, _linux.MS_REC | _linux.MS_PRIVATE)\n"
        f"_linux.mount('none', {os.fspath(sandbox.path)!r}, 'tmpfs')\n"
        f"assert mountinfo.top({os.fspath(sandbox.path)!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
    from zerofs.mount import mountinfo

    assert mountinfo.top(sandbox.path) is None
