"""What cannot be mounted: one clear line, the documented exit status, nothing left behind."""

from __future__ import annotations

import io
import os
import shutil
import sqlite3
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.mounts import mounts_below
from tests.support.sandbox import BINARIES, MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

USAGE, FLIST, STORE, MOUNT, BACKEND = 2, 3, 4, 5, 6


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", lambda root: write(root / "file", "content"))


@pytest.fixture
def refused(sandbox: Sandbox) -> Callable[..., str]:
    """``refused(status, *options)``: mounts, expects that status, and returns the one line of explanation."""

    def refuse(status: int, *options: object, target: Path | None = None) -> str:
        target = sandbox.directory("mnt") if target is None else target
        arguments = [os.fspath(option) for option in options]  # type: ignore[call-overload]
        if "--cache" not in arguments:
            arguments += ["--cache", os.fspath(sandbox.path / "cache")]
        done = sandbox.run("g8ufs", *arguments, target, status=status, timeout=30)
        lines = [line for line in done.stderr.decode().splitlines() if " WARNING " not in line]
        assert len(lines) == 1, done.stderr.decode()
        assert lines[0].startswith("g8ufs: ") and lines[0].endswith(")")  # what happened (what to do)
        assert done.stdout == b""
        assert mounts_below(sandbox.path) == []
        return lines[0]

    return refuse


# -- usage -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--no-such-option"],
        ["--timeout", "never"],
        ["--timeout", "-1"],
        ["--cache-size", "lots", "--meta", "IMAGE"],
        ["--rw-size", "0", "--meta", "IMAGE"],
        ["--engine", "steam"],
        ["-o", "make_it_so"],
        ["--ro"],
        ["--ro=perhaps"],
        ["--meta"],
    ],
)
def test_usage(refused: Callable[..., str], image: Image, arguments: list[str]) -> None:
    refused(USAGE, *[str(image.flist) if word == "IMAGE" else word for word in arguments])


@pytest.mark.parametrize("option", ["--backend", "--cache", "--log", "--meta", "MOUNTPOINT"])
def test_a_name_that_is_empty_is_not_the_directory_here(sandbox: Sandbox, image: Image, option: str) -> None:
    """As a shell's variable without a value leaves it: --reset would empty it, and a mount would hide it."""
    here = sandbox.directory("here")
    precious = write(here / "precious", "content")
    words = ["--reset", "--meta", image.flist, "--storage-url", f"dir://{image.store}"]
    words += (
        ["", "--backend", sandbox.path / "be"]
        if option == "MOUNTPOINT"
        else [option, "", sandbox.directory("mnt")]
    )
    done = sandbox.run("g8ufs", *words, status=USAGE, cwd=here, timeout=30)
    assert b"empty" in done.stderr and done.stderr.count(b"\n") == 1
    assert precious.read_text() == "content" and os.listdir(here) == ["precious"]


def test_no_mount_point(sandbox: Sandbox) -> None:
    assert b"MOUNTPOINT" in sandbox.run("g8ufs", status=USAGE).stderr


@pytest.mark.parametrize("daemon", [[], ["--daemon"]], ids=["foreground", "daemon"])
def test_the_log_says_why(refused: Callable[..., str], sandbox: Sandbox, daemon: list[str]) -> None:
    """A caller that keeps nothing but the log learns it there; the directory of a log is made as the mount begins."""
    log = sandbox.path / "made" / "for it" / "log"
    line = refused(FLIST, "--log", log, *daemon, "--meta", sandbox.path / "missing")
    assert log.read_text().count("\n") == 1
    assert line.removeprefix("g8ufs: ") in log.read_text()
    refused(USAGE, "--log", sandbox.path / "other" / "log", "--no-such-option")
    assert not (sandbox.path / "other").exists()


# -- flists ----------------------------------------------------------------------------------


def test_missing_flist(refused: Callable[..., str], sandbox: Sandbox) -> None:
    assert "missing.flist" in refused(FLIST, "--ro", "--meta", sandbox.path / "missing.flist")


def test_not_a_flist(refused: Callable[..., str], sandbox: Sandbox) -> None:
    refused(FLIST, "--ro", "--meta", write(sandbox.path / "x", "just some text" * 100))
    refused(FLIST, "--ro", "--meta", write(sandbox.path / "empty"))
    refused(FLIST, "--ro", "--meta", sandbox.directory("directory"))


@pytest.mark.parametrize("form", ["rocksdb", "sqlite", "fl"])
def test_truncated_flist(
    refused: Callable[..., str], sandbox: Sandbox, pack: Callable[..., Image], form: str
) -> None:
    whole = pack(
        "whole", lambda root: [write(root / f"f{n}", "x" * n) for n in range(200)], form
    ).flist.read_bytes()
    for size in (len(whole) // 3, len(whole) - 600):
        refused(FLIST, "--ro", "--meta", write(sandbox.path / "cut.flist", whole[:size]))
    assert not [path for path in (sandbox.path / "cache" / "flists").iterdir() if path.suffix != ".lock"]


def test_damaged_database(refused: Callable[..., str], sandbox: Sandbox, golden: Path) -> None:
    with tarfile.open(golden / "small-sqlite.flist") as archive:
        archive.extractall(sandbox.directory("db"), filter="data")
    database = sandbox.path / "db" / "flistdb.sqlite3"
    content = bytearray(database.read_bytes())
    content[4096:20000] = bytes(20000 - 4096)
    database.write_bytes(content)
    refused(FLIST, "--ro", "--meta", sandbox.path / "db")


def test_missing_root_record(refused: Callable[..., str], sandbox: Sandbox, golden: Path) -> None:
    with tarfile.open(golden / "small-sqlite.flist") as archive:
        archive.extractall(sandbox.directory("db"), filter="data")
    with sqlite3.connect(sandbox.path / "db" / "flistdb.sqlite3") as database:
        deleted = database.execute(
            "DELETE FROM entries WHERE key = 'cae66941d9efbd404e4d88758ea67670'"
        ).rowcount
    assert deleted == 1  # BLAKE2b-128 of the empty path
    assert "root" in refused(FLIST, "--ro", "--meta", sandbox.path / "db")


def _tar(
    path: Path, *members: tuple[str, bytes | None], kind: bytes = tarfile.REGTYPE, link: str = ""
) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size = kind, link, len(content or b"")
            archive.addfile(info, io.BytesIO(content or b""))
    return path


def test_escaping_archive(refused: Callable[..., str], sandbox: Sandbox) -> None:
    refused(FLIST, "--ro", "--meta", _tar(sandbox.path / "a", ("../../escaped", b"x")))
    refused(FLIST, "--ro", "--meta", _tar(sandbox.path / "b", (f"{sandbox.path}/escaped", b"x")))
    refused(FLIST, "--ro", "--meta", _tar(sandbox.path / "c", ("l", None), kind=tarfile.SYMTYPE, link="/etc"))
    refused(FLIST, "--ro", "--meta", _tar(sandbox.path / "d", ("n", None), kind=tarfile.CHRTYPE))
    assert not list(sandbox.path.rglob("escaped"))


def test_zip_bomb(refused: Callable[..., str], sandbox: Sandbox) -> None:
    bomb = _tar(sandbox.path / "bomb", ("flistdb.sqlite3", bytes(64 << 20)))
    assert bomb.stat().st_size < 100_000
    assert "--max-flist-size" in refused(FLIST, "--ro", "--max-flist-size", "1M", "--meta", bomb)
    many = _tar(sandbox.path / "many", *((f"f{n}", b"") for n in range(20_000)))
    refused(FLIST, "--ro", "--meta", many)


class _Gone(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web_server() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Gone)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_url_that_leads_nowhere(refused: Callable[..., str], web_server: str) -> None:
    refused(FLIST, "--ro", "--meta", f"{web_server}/image.flist")
    refused(FLIST, "--ro", "--meta", "http://127.0.0.1:1/image.flist")
    refused(FLIST, "--ro", "--meta", "file:///nowhere/image.flist")


# -- stores ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pools: [", "1:"),
        ("pools: {a: {'00:FF': 'gopher://x'}}\nlookup: [a]\n", "gopher"),
        ("pools: {a: {'0:FF': 'redis://x'}}\nlookup: [a]\n", "0:FF"),
        ("pools: {a: {'00:FF': 'redis://x'}}\nlookup: []\n", "lookup"),
        ("pools: {a: {'00:FF': 'redis://x'}}\nlookup: [b]\n", "b"),
        ("pools: {a: {'00:FF': 'redis://x'}}\nlookup: [a]\ncache: [c]\n", "c"),
    ],
)
def test_bad_router(
    refused: Callable[..., str], image: Image, sandbox: Sandbox, text: str, said: str
) -> None:
    router = write(sandbox.path / "router.yaml", text)
    line = refused(STORE, "--ro", "--meta", image.flist, "--local-router", router)
    assert said in line and "router.yaml" in line


def test_bad_storage_url(refused: Callable[..., str], image: Image) -> None:
    for url in ("gopher://x", "redis://", "no url", "redis://host:notaport"):
        refused(STORE, "--ro", "--meta", image.flist, "--storage-url", url)


def test_passwords_are_not_repeated(refused: Callable[..., str], image: Image, sandbox: Sandbox) -> None:
    assert "hunter2" not in refused(
        STORE, "--ro", "--meta", image.flist, "--storage-url", "gopher://:hunter2@x"
    )
    router = write(sandbox.path / "r.yaml", "pools: {a: {'00:FF': 'gopher://:hunter2@x'}}\nlookup: [a]\n")
    assert "hunter2" not in refused(STORE, "--ro", "--meta", image.flist, "--local-router", router)


# -- the host --------------------------------------------------------------------------------


def test_missing_mount_point(refused: Callable[..., str], image: Image, sandbox: Sandbox) -> None:
    target = sandbox.path / "nowhere"
    assert str(target) in refused(MOUNT, "--meta", image.flist, target=target)
    assert not target.exists()


def test_missing_mount_point_is_made_for_a_read_only_mount(image: Image, sandbox: Sandbox) -> None:
    target = sandbox.path / "made" / "here"
    done = subprocess.run(
        [BINARIES / "g8ufs", "--ro", "--meta", image.flist, "--storage-url", f"dir://{image.store}",
         "--cache", sandbox.path / "cache", "--daemon", "--log", sandbox.path / "log", target],
        check=False, capture_output=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, b"mount starts\n")
    assert (target / "file").read_text() == "content"
    sandbox.run("zerofs", "umount", target)


def test_mount_point_is_a_file(refused: Callable[..., str], image: Image, sandbox: Sandbox) -> None:
    refused(MOUNT, "--meta", image.flist, target=write(sandbox.path / "a-file"))
    refused(MOUNT, "--ro", "--meta", image.flist, target=sandbox.path / "a-file")


def test_busy_mount_point(image: Image, sandbox: Sandbox, mounted: Callable[..., MountProcess]) -> None:
    for options in (["--ro"], ["--backend", str(sandbox.path / "backend")]):
        first = mounted(image, *options)
        second = sandbox.run("g8ufs", "--ro", "--meta", image.flist, first.target, status=MOUNT)
        assert b"busy" in second.stderr and str(first.pid).encode() in second.stderr
        assert (first.target / "file").read_text() == "content"
        first.stop()


def test_busy_backend(image: Image, sandbox: Sandbox, mounted: Callable[..., MountProcess]) -> None:
    first = mounted(image, "--backend", sandbox.path / "backend")
    other = sandbox.directory("other")
    arguments = ["--meta", image.flist, "--backend", sandbox.path / "backend", "--reset", other]
    assert b"busy" in sandbox.run("g8ufs", *arguments, status=MOUNT).stderr
    assert (first.target / "file").read_text() == "content"


def test_backend_that_cannot_be(refused: Callable[..., str], image: Image, sandbox: Sandbox) -> None:
    refused(BACKEND, "--meta", image.flist, "--backend", write(sandbox.path / "a-file"))
    foreign = sandbox.directory("foreign")
    os.chown(foreign, 4242, 4242)
    assert "belongs to" in refused(BACKEND, "--meta", image.flist, "--backend", foreign)
    for precious in ("/", os.environ.get("HOME", "/root")):
        refused(BACKEND, "--meta", image.flist, "--reset", "--backend", precious)


def test_backend_and_cache_on_a_full_disk(
    refused: Callable[..., str], image: Image, sandbox: Sandbox
) -> None:
    full = sandbox.directory("full")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,nr_inodes=64", "full", full], check=True)
    try:
        (full / "stuff").mkdir()
        for number in range(100):
            try:
                write(full / "stuff" / str(number))
            except OSError:
                break
        arguments = ["--meta", image.flist, "--backend", full / "backend", "--cache", sandbox.path / "cache"]
        done = sandbox.run("g8ufs", *arguments, sandbox.directory("mnt"), status=BACKEND)
        assert b"full" in done.stderr or b"No space" in done.stderr
        assert [mount.target for mount in mounts_below(sandbox.path)] == [full]
    finally:
        subprocess.run(["umount", full], check=True)


def test_cache_that_cannot_be(refused: Callable[..., str], image: Image, sandbox: Sandbox) -> None:
    assert "a-file" in refused(
        BACKEND, "--ro", "--meta", image.flist, "--cache", write(sandbox.path / "a-file")
    )


def test_no_fuse_device(image: Image, sandbox: Sandbox) -> None:
    """In a mount namespace of its own, where /dev/fuse is hidden."""
    hide = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --make-rprivate / && mount -t tmpfs t /dev && mknod -m 666 /dev/null c 1 3 && exec "$@"',
        "sh",
    ]
    command = [BINARIES / "g8ufs", "--ro", "--meta", image.flist, "--cache", sandbox.path / "cache"]
    done = subprocess.run([*hide, *command, sandbox.directory("mnt")], capture_output=True, check=False)
    assert done.returncode == MOUNT and b"/dev/fuse" in done.stderr and done.stderr.count(b"\n") == 1


def test_not_permitted(image: Image, sandbox: Sandbox) -> None:
    """A user who may not mount, on a host without fusermount."""
    shutil.rmtree(sandbox.directory("home"), ignore_errors=True)
    home = sandbox.directory("home")
    os.chown(home, 4242, 4242)
    target = sandbox.directory("home/mnt")
    os.chown(target, 4242, 4242)
    command = [shutil.which("setpriv"), "--reuid=4242", "--regid=4242", "--clear-groups", BINARIES / "g8ufs", "--ro",
               "--meta", image.flist, "--cache", home / "cache", "--backend", home / "backend", target]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, "PATH": "/nowhere", "HOME": str(home)}
    )
    assert done.returncode == MOUNT, done.stderr
    assert done.stderr.count(b"\n") == 1 and b"Traceback" not in done.stderr
