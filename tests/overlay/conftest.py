"""A lower layer to stand in for a flist, and unions over it that are taken down whatever a test does."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.sandbox import Sandbox
from zerofs.mount import mountinfo
from zerofs.mount._linux import MS_BIND, MS_RDONLY, MS_REMOUNT, mount
from zerofs.mount.backend import Backend, open_backend
from zerofs.mount.overlay import Overlay, mount_overlay
from zerofs.mount.unmount import unmount

PLAIN = b"untouched " * 20_000  # 200 kB
NOBODY = 65534


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0:
        for item in items:
            if item.path.is_relative_to(Path(__file__).parent):
                item.add_marker(pytest.mark.skip(reason="mounting needs root"))


class Union(NamedTuple):
    """A union that is mounted."""

    backend: Backend
    overlay: Overlay
    target: Path


Join = Callable[..., AbstractContextManager[Union]]
Expose = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def source(sandbox: Sandbox) -> Path:
    """A tree with what a lower layer needs to show; its root is of mode 0751 and of user 12, group 34."""
    root = sandbox.directory("source")
    (root / "plain").write_bytes(PLAIN)
    (root / "dir/deep").mkdir(parents=True)
    (root / "dir/inner").write_text("inner")
    (root / "dir/deep/leaf").write_text("leaf")
    (root / "link").symlink_to("plain")
    shutil.copy("/usr/bin/id", root / "suid")
    (root / "suid").chmod(0o4755)
    root.chmod(0o751)
    os.chown(root, 12, 34)
    os.utime(root, (1_000_000_000, 1_000_000_000))
    return root


@contextlib.contextmanager
def bound(source: Path, place: Path) -> Iterator[None]:
    """`source` at `place`, read-only: the same device as the rest of the sandbox."""
    mount(source, place, None, MS_BIND)
    try:
        mount(source, place, None, MS_BIND | MS_REMOUNT | MS_RDONLY)
        yield
    finally:
        unmount(place)


class Server:
    """A real FUSE server for `source`, which calls itself what ours does: fuse.g8ufs with its process id."""

    def __init__(self, image: Path, place: Path) -> None:
        self.place = place
        command = f"exec squashfuse -f -o fsname=$$,subtype=g8ufs,allow_other '{image}' '{place}'"
        self.process = subprocess.Popen(["/bin/sh", "-c", command])
        while (seen := mountinfo.top(place)) is None or not seen.is_ours:
            assert self.process.poll() is None, "squashfuse does not start"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is not None and mountinfo.top(self.place) is None:
            return
        self.process.send_signal(signal.SIGCONT)
        seen = mountinfo.top(self.place)
        if seen is not None and seen.server == self.process.pid:
            unmount(self.place)
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def image(source: Path, sandbox: Sandbox) -> Path:
    """`source` as a squashfs image."""
    if shutil.which("squashfuse") is None or shutil.which("mksquashfs") is None:
        pytest.skip("no package squashfuse, squashfs-tools")
    image = sandbox.path / "image.squashfs"
    subprocess.run(
        ["mksquashfs", source, image, "-quiet", "-no-progress", "-comp", "gzip"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return image


@pytest.fixture
def serve(image: Path) -> Iterator[Callable[[Path], Server]]:
    """Starts servers; each ends with the test."""
    with ExitStack() as stack:

        def start(place: Path) -> Server:
            server = Server(image, place)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture(params=["bind", "fuse"])
def expose(request: pytest.FixtureRequest, source: Path) -> Expose:
    """Shows `source` at a place: as a directory of the same device, and through a FUSE server."""
    if request.param == "bind":
        return lambda place: bound(source, place)
    image: Path = request.getfixturevalue("image")
    return lambda place: contextlib.closing(Server(image, place))  # type: ignore[return-value]


@pytest.fixture
def join(sandbox: Sandbox, expose: Expose) -> Join:
    """``join(backend=None, *, rw_size=None, reset=False, keep=(), target="mnt")``: a union, as a context."""

    @contextlib.contextmanager
    def joined(
        path: Path | None = None,
        *,
        rw_size: int | None = None,
        reset: bool = False,
        keep: tuple[Path, ...] = (),
        target: str = "mnt",
    ) -> Iterator[Union]:
        place = sandbox.directory(target)
        with open_backend(path, rw_size=rw_size, base=sandbox.path / "private") as backend:
            if reset:
                backend.reset(target=place, keep=keep)
            backend.make_layers()
            with expose(backend.ro), contextlib.closing(mount_overlay(backend, place)) as overlay:
                yield Union(backend, overlay, place)

    return joined


def as_nobody(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command as a user without any right."""
    ids = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    return subprocess.run(["setpriv", *ids, *command], capture_output=True, text=True, check=False)
