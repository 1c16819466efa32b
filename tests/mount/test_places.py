"""Where a mount lies and what it is made of: odd names, long paths, relative ones, several flists, logs."""

from __future__ import annotations

import http.server
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.mount.conftest import Image, write
from tests.support.mounts import mounted_at, mounts_below
from tests.support.sandbox import BINARIES, MountProcess, Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

ODD_NAMES = [
    "with space",
    "com,ma",
    "co:lon",
    "back\\slash",
    "ünïcode ☂",
    "quo'te\"s",
    "new\nline",
    "tab\tand #hash",
    "-dash",
    "per%cent=x",
    os.fsdecode(b"\xff\xfe not utf-8"),
]


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", lambda root: write(root / "dir" / "file", "content"))


@pytest.fixture
def options(image: Image, sandbox: Sandbox) -> list[str | os.PathLike[str]]:
    """What every mount here has in common."""
    return [
        *("--meta", image.flist, "--storage-url", f"dir://{image.store}", "--cache", sandbox.path / "cache"),
    ]


Options = list[str | os.PathLike[str]]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_names(sandbox: Sandbox, options: Options, name: str) -> None:
    """Of the mount point, the backend and the cache at once."""
    # RocksDB takes no path that is not UTF-8, and flists are unpacked beside the cache
    cache = sandbox.path / (name if name.isprintable() or name.isascii() else "plain") / "cache"
    for more in (["--ro"], ["--backend", sandbox.path / name / "backend"]):
        target = sandbox.path / name / "mnt"
        mount = sandbox.mount(*options, "--cache", cache, *more, target=target)
        assert (target / "dir" / "file").read_text() == "content"
        assert mount.stop() == 0
        assert mounts_below(sandbox.path) == []
        sandbox.run("g8ufs", *options, *more, "--daemon", "--log", sandbox.path / name / "log", target)
        assert (target / "dir" / "file").read_text() == "content"
        sandbox.run("zerofs", "umount", "--", target)
        assert mounts_below(sandbox.path) == []


def test_a_long_path(sandbox: Sandbox, options: Options) -> None:
    """Longer than a page of mount options could hold three of, yet shorter than the kernel's bound."""
    deep = sandbox.path.joinpath(*["d" * 200] * 14)
    target = deep / "mnt"
    mount = sandbox.mount(*options, "--ro", target=target)
    assert (target / "dir" / "file").read_text() == "content"
    assert mount.stop() == 0
    (deep / "union").mkdir(parents=True)
    refused = sandbox.run("g8ufs", *options, "--backend", deep / "backend", deep / "union", status=5)
    assert b"shorter --backend" in refused.stderr
    mount = sandbox.mount(*options, target=deep / "union")  # the layers lie elsewhere
    assert mount.stop() == 0
    assert mounts_below(sandbox.path) == []


def test_through_a_link(sandbox: Sandbox, options: Options) -> None:
    target = sandbox.directory("real/mnt")
    (sandbox.path / "link").symlink_to("real/mnt")
    mount = sandbox.mount(*options, target=sandbox.path / "link")
    assert mounted_at(target) is not None
    assert (target / "dir" / "file").read_text() == "content"
    assert mount.stop() == 0


def test_relative_paths_in_the_foreground(image: Image, sandbox: Sandbox) -> None:
    sandbox.directory("here/mnt")
    command = [BINARIES / "g8ufs", "--meta", "../image.flist", "--storage-url", f"dir://{image.store}",
               "--cache", "ca", "--backend", "./be", "--log", "logs/log", "mnt"]  # fmt: skip
    with subprocess.Popen(command, cwd=sandbox.path / "here", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"mount starts\n"
        assert (sandbox.path / "here/mnt/dir/file").read_text() == "content"
        process.terminate()
        assert process.wait(timeout=15) == 0
    assert sorted(os.listdir(sandbox.path / "here")) == ["be", "ca", "logs", "mnt"]


@pytest.mark.parametrize("more", [[], ["--supervised"]], ids=["plain", "supervised"])
def test_the_url_of_a_store_from_a_file(image: Image, sandbox: Sandbox, more: list[str]) -> None:
    """Every user sees command lines: neither the option nor the variable needs a password in one."""
    target = sandbox.directory("here/mnt")
    write(sandbox.path / "here/url", f"# the only one\ndir://{image.store}\n")
    command = [BINARIES / "g8ufs", *more, "--ro", "--daemon", "--log", "log", "--meta", image.flist]
    for name, options, variable in (
        ("a", ["--storage-url", "@url"], ""),
        ("b", [], f"@{sandbox.path}/here/url"),
    ):
        subprocess.run(
            [*command, "--cache", f"cache-{name}", *options, target],
            env={**os.environ, "PWD": f"{sandbox.path}/here", "ZEROFS_STORAGE_URL": variable},
            cwd=sandbox.path / "here", stdout=subprocess.DEVNULL, check=True,
        )  # fmt: skip
        assert (target / "dir/file").read_text() == "content"
        if options:  # a relative file is found from elsewhere, too
            sandbox.run("zerofs", "warmup", "--all", target)
        sandbox.run("zerofs", "umount", target)
    done = sandbox.run("g8ufs", "--ro", "--storage-url", "@missing", "--meta", image.flist, target, status=4)
    assert b"missing: No such file" in done.stderr


def test_backend_and_mount_point_are_two_places(sandbox: Sandbox, options: Options) -> None:
    place = sandbox.directory("one")
    done = sandbox.run("g8ufs", *options, "--backend", place, place, status=2)
    assert b"at once" in done.stderr


def test_the_mount_point_may_lie_in_the_backend(sandbox: Sandbox, options: Options) -> None:
    backend = sandbox.directory("backend")
    for _ in range(2):
        mount = sandbox.mount(*options, "--reset", "--backend", backend, target=backend / "root")
        assert (backend / "root/dir/file").read_text() == "content"
        (backend / "root/mine").write_text("mine")
        assert mount.stop() == 0
    assert mounts_below(sandbox.path) == []


def test_a_reset_empties_the_cache_in_the_backend_while_others_use_it(
    image: Image, sandbox: Sandbox, pack: Callable[..., Image]
) -> None:
    backend = sandbox.directory("backend")
    store = ["--storage-url", f"dir://{image.store}"]
    first = sandbox.mount("--meta", image.flist, *store, "--backend", backend)
    other = sandbox.mount(
        *("--ro", "--meta", image.flist, *store, "--cache", backend / "ca"), target=sandbox.directory("other")
    )
    assert (first.target / "dir/file").read_text() == "content"
    assert first.stop() == 0
    again = sandbox.mount("--meta", image.flist, *store, "--backend", backend, "--reset")
    assert (again.target / "dir/file").read_text() == "content"
    assert (other.target / "dir/file").read_text() == "content"
    assert other.stop() == again.stop() == 0


# -- several flists --------------------------------------------------------------------------


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def served(sandbox: Sandbox) -> Iterator[str]:
    """The URL of the sandbox."""
    handler = partial(Quiet, directory=os.fspath(sandbox.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_generations_and_places_are_mixed(sandbox: Sandbox, pack: Callable[..., Image], served: str) -> None:
    """An unpacked directory, a URL, a file without an extension and a file:// URL, the last on top."""
    names = ["low", "web", "bare", "top"]
    forms = dict(zip(names, ["rocksdb", "fl", "sqlite", "rocksdb"], strict=True))
    images = {
        name: pack(
            name,
            lambda root, name=name: [write(root / f"only-{name}", name * 1000), write(root / "all", name)],
            form,
        )
        for name, form in forms.items()
    }
    unpacked = sandbox.directory("unpacked")
    subprocess.run(["tar", "-xf", images["low"].flist, "-C", unpacked], check=True)
    bare = images["bare"].flist.rename(sandbox.path / "bare")
    mount = sandbox.mount(
        *("-meta", unpacked, "-meta", f"{served}/web.flist", "--meta", bare),
        *(f"--meta=file://{images['top'].flist}", "--storage-url", f"dir://{images['low'].store}"),
        *("--cache", sandbox.path / "cache"),
    )
    assert (mount.target / "all").read_text() == "top"
    for name in names:
        assert (mount.target / f"only-{name}").read_text() == name * 1000
    assert mount.stop() == 0


# -- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spelled", "expected", "absent"),
    [
        ("noexec", {"ro", "nosuid", "nodev", "noexec"}, set()),
        ("suid,dev", {"ro"}, {"nosuid", "nodev"}),
        ("nosuid,suid", {"ro", "nodev"}, {"nosuid"}),
        ("dev,nodev", {"ro", "nodev"}, set()),
        ("noatime,relatime,defaults,async,_netdev,x-whatever=1", {"ro", "noatime"}, set()),
        ("allow_other,default_permissions", {"ro", "nosuid", "nodev"}, set()),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_mount_options(
    sandbox: Sandbox, options: Options, spelled: str, expected: set[str], absent: set[str], joined: bool
) -> None:
    sandbox.mount(*options, *([f"-oro,{spelled}"] if joined else ["--ro", "-o", spelled]))
    seen = mounted_at(sandbox.path / "mnt")
    assert seen is not None
    shown = set(seen.options.split(","))
    assert expected <= shown and not absent & shown


@pytest.mark.parametrize("spelled", ["nosuid", "nodev", "noexec", "noatime"])
def test_mount_options_of_the_union(sandbox: Sandbox, options: Options, spelled: str) -> None:
    sandbox.mount(*options, "-o", spelled)
    seen = mounted_at(sandbox.path / "mnt")
    assert seen is not None and spelled in seen.options.split(",")


def test_options_of_ours_behind_o(sandbox: Sandbox, image: Image) -> None:
    cache, log = sandbox.path / "cache", sandbox.path / "log"
    text = f"meta={image.flist},storage-url=dir://{image.store},cache={cache},log={log},ro=true,timeout=9"
    mount = sandbox.mount("-o", text)
    assert (mount.target / "dir/file").read_text() == "content"
    assert log.exists() and cache.exists()


# -- logs ------------------------------------------------------------------------------------


@pytest.mark.parametrize("daemon", [[], ["--daemon"]])
def test_a_log_that_cannot_be_written(sandbox: Sandbox, options: Options, daemon: list[str]) -> None:
    in_the_way = write(sandbox.path / "file", "")
    for log in (in_the_way / "log", sandbox.directory("directory")):
        done = sandbox.run("g8ufs", *options, *daemon, "--log", log, sandbox.directory("mnt"), status=1)
        assert b"cannot write the log" in done.stderr and b"--log" in done.stderr
        assert done.stderr.count(b"\n") == 1 and done.stdout == b""


def test_the_default_log_of_a_daemon_that_is_not_root(sandbox: Sandbox, options: Options) -> None:
    """Which only root may write."""
    home = sandbox.directory("home")
    os.chown(home, 4242, 4242)
    command = ["setpriv", "--reuid=4242", "--regid=4242", "--clear-groups", BINARIES / "g8ufs", "--daemon",
               *options, "--cache", home / "cache", home]  # fmt: skip
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"/var/log/g8ufs.log" in done.stderr and b"--log" in done.stderr and done.stderr.count(b"\n") == 1


def test_the_server_is_found_through_the_union(
    image: Image, sandbox: Sandbox, mounted: Callable[..., MountProcess]
) -> None:
    """As callers do: the overlay's lower layer, the process id that is its source, the path in its arguments."""
    sandbox.run(
        "g8ufs", "--meta", image.flist, "--storage-url", f"dir://{image.store}", "--daemon",
        "--cache", sandbox.path / "cache", "--log", sandbox.path / "log", "--pid", sandbox.path / "pid",
        sandbox.directory("mnt"),
    )  # fmt: skip
    union = mounted_at(sandbox.path / "mnt")
    assert union is not None and union.type == "overlay"
    lower = next(option for option in union.options.split(",") if option.startswith("lowerdir="))
    server = mounted_at(Path(lower.removeprefix("lowerdir=")))
    assert server is not None and server.type == "fuse.g8ufs"
    assert server.source == (sandbox.path / "pid").read_text().strip()
    assert Path(f"/proc/{server.source}/comm").read_text() == "g8ufs\n"
    assert os.fsencode(image.flist) in Path(f"/proc/{server.source}/cmdline").read_bytes().split(b"\0")
    sandbox.run("zerofs", "umount", sandbox.path / "mnt")
