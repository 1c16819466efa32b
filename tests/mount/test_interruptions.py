"""Signals at any instant, mounts that meet, and servers that go away: no mount is left, none stacked, none lost."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.mount.conftest import Image, holding, write
from tests.support.mounts import mounted_at, mounts_below
from tests.support.sandbox import BINARIES, MountProcess, Sandbox
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CONTENT = {f"f{n}": os.urandom(1000 + n) for n in range(12)}


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", holding(CONTENT))


class Background(subprocess.Popen[bytes]):
    """A process that a failing test does not wait for."""

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *details)  # type: ignore[arg-type]


def start(sandbox: Sandbox, image: Image, *options: object, **keywords: object) -> Background:
    """A mount that nobody waits for."""
    command = [BINARIES / "g8ufs", "--storage-url", f"dir://{image.store}", "--cache", sandbox.path / "cache"]
    return Background(
        [*map(os.fspath, [*command, *options, sandbox.directory("mnt")])],  # type: ignore[call-overload]
        **{"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **keywords},
    )


# -- signals while it is being set up --------------------------------------------------------

# A signal comes exactly before or after one call of the set-up.
STRUCK = """
import importlib, os, signal, sys
module, name, when, number = sys.argv[1:5]
place = importlib.import_module(module)
real = getattr(place, name)
def struck(*arguments, **keywords):
    if when == "before":
        os.kill(os.getpid(), int(number))
    result = real(*arguments, **keywords)
    if when == "after":
        os.kill(os.getpid(), int(number))
    return result
setattr(place, name, struck)
from zerofs.cli.g8ufs import main
sys.argv[1:] = sys.argv[5:]
raise SystemExit(main())
"""
# Private backends lie in a directory of this mount namespace alone, so that what is left can be told.
ALONE = """
mount --make-rprivate /
mkdir -p /tmp/backend && mount -t tmpfs base /tmp/backend || exit 99
"$@"
status=$?
find /tmp/backend -mindepth 1 ! -path /tmp/backend/ca ! -path '/tmp/backend/ca/*'
grep -e "$BOX" -e ' /tmp/backend/' /proc/self/mountinfo
exit $status
"""
CALLS = [
    ("zerofs.mount.claim", "clear_target"),
    ("zerofs.mount.backend", "mount"),  # the memory of a private backend
    ("zerofs.mount.flistmount", "load_flist"),
    ("zerofs.mount.flistmount", "build_router"),
    ("llfuse", "init"),
    ("zerofs.mount.overlay", "mount"),
    ("zerofs.mount.watch", "inotify_add_watch"),
]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
def test_it_ends_and_leaves_nothing(
    image: Image, sandbox: Sandbox, module: str, name: str, when: str, number: int
) -> None:
    options = ["--meta", image.flist, "--cache", sandbox.path / "cache", sandbox.directory("mnt")]
    command = [sys.executable, "-c", STRUCK, module, name, when, str(int(number)), *options]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", ALONE, "sh", *command],
        env={**os.environ, "BOX": str(sandbox.path)},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Traceback" not in done.stderr and "ERROR" not in done.stderr


def test_who_waits_for_a_daemon_hears_that_it_was_interrupted(image: Image, sandbox: Sandbox) -> None:
    pid_file = sandbox.path / "pid"
    options = ["--meta", image.flist, "--cache", sandbox.path / "cache", "--log", sandbox.path / "log"]
    options += ["--daemon", "--pid", pid_file, sandbox.directory("mnt")]
    struck = ["zerofs.mount.flistmount", "load_flist", "after", str(int(signal.SIGINT))]
    done = subprocess.run(
        [sys.executable, "-c", STRUCK, *struck, *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "g8ufs: interrupted before the mount could be used\n"
    eventually(lambda: not pid_file.exists(), "the end of the daemon")
    assert mounts_below(sandbox.path) == []


@pytest.mark.parametrize(("module", "name"), CALLS, ids=[name for _, name in CALLS])
def test_a_hang_up_does_not_end_it(image: Image, sandbox: Sandbox, module: str, name: str) -> None:
    """By default SIGHUP ends a process at once."""
    options = ["--meta", image.flist, "--cache", sandbox.path / "cache", sandbox.directory("mnt")]
    with subprocess.Popen(
        [sys.executable, "-c", STRUCK, module, name, "after", str(int(signal.SIGHUP)), *options],
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mount starts\n"
        process.terminate()
        assert process.wait(timeout=15) == 0
    assert mounts_below(sandbox.path) == []


class SlowServer(ThreadingHTTPServer):
    """Serves one file, once it may."""

    def __init__(self, content: bytes) -> None:
        self.asked, self.go_on = threading.Event(), threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                server.asked.set()
                server.go_on.wait(30)
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/image.flist"


@pytest.fixture
def slow_server(image: Image) -> Iterator[SlowServer]:
    with SlowServer(image.flist.read_bytes()) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.go_on.set()
        server.shutdown()
        thread.join()


def test_a_download_is_interrupted(image: Image, sandbox: Sandbox, slow_server: SlowServer) -> None:
    with start(sandbox, image, "--meta", slow_server.url) as process:
        assert slow_server.asked.wait(20)
        process.terminate()
        assert process.wait(timeout=15) == 0
    assert mounts_below(sandbox.path) == []
    assert list((sandbox.path / "cache" / "flists").iterdir()) == []


def test_a_hang_up_during_the_download_is_not_lost(
    image: Image, sandbox: Sandbox, slow_server: SlowServer, pack: Callable[..., Image]
) -> None:
    backend = sandbox.directory("backend")
    (backend / ".layered").write_text(str(pack("update", lambda root: write(root / "new", "new")).flist))
    options = ["--meta", slow_server.url, "--backend", backend, "--log", sandbox.path / "log"]
    with start(sandbox, image, *options) as process:
        assert slow_server.asked.wait(20)
        process.send_signal(signal.SIGHUP)
        slow_server.go_on.set()
        eventually(lambda: "swapped the tree" in (sandbox.path / "log").read_text(), "the swap")
        assert (sandbox.path / "mnt" / "new").read_text() == "new"
        assert (sandbox.path / "mnt" / "f3").read_bytes() == CONTENT["f3"]
        process.terminate()
        assert process.wait(timeout=15) == 0


def test_a_swap_is_interrupted(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox, slow_server: SlowServer
) -> None:
    backend = sandbox.directory("backend")
    mount = mounted(image, "--backend", backend)
    (backend / ".layered").write_text(slow_server.url)
    mount.process.send_signal(signal.SIGHUP)
    assert slow_server.asked.wait(20)
    assert (mount.target / "f3").read_bytes() == CONTENT["f3"]
    assert mount.stop() == 0
    assert mounts_below(sandbox.path) == []


# -- signals while it ends -------------------------------------------------------------------


def test_more_signals_do_not_disturb_the_end(image: Image, sandbox: Sandbox) -> None:
    pid_file = sandbox.path / "pid"
    for first in (signal.SIGTERM, signal.SIGINT):
        sandbox.run(
            "g8ufs", "--meta", image.flist, "--cache", sandbox.path / "cache", "--daemon",
            "--log", sandbox.path / "log", "--pid", pid_file, sandbox.directory("mnt"),
        )  # fmt: skip
        process = int(pid_file.read_text())
        for number in (first, *[signal.SIGHUP, signal.SIGTERM, signal.SIGINT] * 200):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                break
            time.sleep(0.001)
        eventually(lambda: not pid_file.exists(), "the end of the pid file")
        eventually(lambda: mounts_below(sandbox.path) == [], "the end of the mount")
    assert "Traceback" not in (sandbox.path / "log").read_text()


def test_readers_that_wait_for_a_dead_store_do_not_delay_it(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
        for options in (["--ro"], ["--backend", sandbox.path / "backend"]):
            mount = mounted(
                image, "--storage-url", url, "--timeout", "300", *options, allow=["a read failed"]
            )
            readers = [
                subprocess.Popen(["cat", mount.target / f"f{n}"], stderr=subprocess.DEVNULL)
                for n in range(10)
            ]
            eventually(lambda: all(map(_waits, readers)), "readers that wait")  # noqa: B023
            assert mount.stop() == 0
            assert [reader.wait(timeout=15) for reader in readers] == [1] * 10
            assert mounts_below(sandbox.path) == []


def _waits(process: subprocess.Popen[bytes]) -> bool:
    files = Path(f"/proc/{process.pid}/fd")
    return any("/mnt/f" in os.readlink(entry) for entry in files.iterdir())


# -- mounts that meet ------------------------------------------------------------------------


def test_of_mounts_that_start_at_the_same_target_one_wins(image: Image, sandbox: Sandbox) -> None:
    for options in ([], ["--ro"]):
        log = ["--daemon", "--log", sandbox.path / "log", "--meta", image.flist]
        mounts = [start(sandbox, image, *log, *options) for _ in range(4)]
        errors = [mount.communicate(timeout=30)[1] for mount in mounts]
        assert sorted(mount.returncode for mount in mounts) == [0, 5, 5, 5]
        assert sum(b"busy" in error for error in errors) == 3
        assert [mount.target for mount in mounts_below(sandbox.path)] == [sandbox.path / "mnt"]
        assert (sandbox.path / "mnt" / "f1").read_bytes() == CONTENT["f1"]
        sandbox.run("zerofs", "umount", sandbox.path / "mnt")
        assert mounts_below(sandbox.path) == []


def test_what_others_mounted_over_it_stays(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    mount = mounted(image, allow=["mounted over"])
    subprocess.run(["mount", "-t", "tmpfs", "other", mount.target], check=True)
    try:
        assert mount.stop() == 0
        seen = mounted_at(mount.target)
        assert seen is not None and seen.source == "other"
    finally:
        subprocess.run(["umount", mount.target], check=True)
        subprocess.run(["umount", mount.target], check=False)


def test_what_others_mounted_after_it_stays(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    """A mount that is held open after `umount --lazy` must not take down the next at its place."""
    first = mounted(image)
    with (first.target / "f1").open():
        subprocess.run(["umount", "--lazy", first.target], check=True)
        second = mounted(image)
        assert first.stop() == 0
        assert (second.target / "f1").read_bytes() == CONTENT["f1"]


# -- servers that go away --------------------------------------------------------------------


@pytest.mark.parametrize("options", [["--ro"], [], ["--backend", "backend"]])
def test_unmounting_what_a_killed_process_left(image: Image, sandbox: Sandbox, options: list[str]) -> None:
    log = ["--daemon", "--log", sandbox.path / "log", "--pid", sandbox.path / "pid", "--meta", image.flist]
    with start(sandbox, image, *log, *options, cwd=sandbox.path) as caller:
        assert caller.wait(timeout=30) == 0
    process = int((sandbox.path / "pid").read_text())
    open_files = [os.readlink(entry) for entry in Path(f"/proc/{process}/fd").iterdir()]
    private = [Path(name) for name in open_files if name.startswith("/tmp/backend/mount-")]
    assert bool(private) == ("--backend" not in options)
    os.kill(process, signal.SIGKILL)
    eventually(lambda: not _serves(sandbox.path / "mnt"), "the end of the server")
    sandbox.run("zerofs", "umount", sandbox.path / "mnt")
    assert mounts_below(sandbox.path) == []
    assert not [path for path in private if path.exists()]


def _serves(target: Path) -> bool:
    try:
        return not os.lstat(target / "never-asked-before")
    except OSError as error:
        return error.errno == 2


def test_a_session_that_is_aborted_ends_it(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    control = sandbox.directory("control")
    subprocess.run(["mount", "-t", "fusectl", "control", control], check=True)
    try:
        for options in (["--ro"], ["--backend", sandbox.path / "backend"]):
            mount = mounted(image, *options)
            place = mount.target if "--ro" in options else sandbox.path / "backend" / "ro"
            (control / str(os.minor(place.stat().st_dev)) / "abort").write_text("1")
            assert mount.wait() == 0
            assert [mount.target for mount in mounts_below(sandbox.path)] == [control]
    finally:
        subprocess.run(["umount", control], check=True)


# -- callers ---------------------------------------------------------------------------------


def test_a_caller_that_closed_its_descriptors(image: Image, sandbox: Sandbox) -> None:
    with start(
        sandbox, image, "--meta", image.flist, "--debug",
        stdout=None, stderr=None, preexec_fn=lambda: os.closerange(0, 3),
    ) as process:  # fmt: skip
        path = sandbox.path / "mnt" / "f1"
        eventually(path.exists, "the mount")
        assert path.read_bytes() == CONTENT["f1"]
        assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
        process.terminate()
        assert process.wait(timeout=15) == 0


def test_a_caller_that_does_not_listen(image: Image, sandbox: Sandbox) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    for options in ([], ["--daemon", "--log", sandbox.path / "log"]):
        with start(sandbox, image, "--meta", image.flist, *options, stdout=writing) as process:
            path = sandbox.path / "mnt" / "f1"
            eventually(path.exists, "the mount")
            assert path.read_bytes() == CONTENT["f1"]
            sandbox.run("zerofs", "umount", sandbox.path / "mnt")
            assert process.wait(timeout=15) == 0
    os.close(writing)


def test_a_limit_on_the_size_of_files(image: Image, sandbox: Sandbox) -> None:
    """SIGXFSZ, by default the end of a process, is an error like others: chunks are served uncached."""
    process = start(
        sandbox, image, "--ro", "--meta", image.flist, stdout=subprocess.PIPE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (16384, 16384)),
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mount starts\n"
        source = next(path for path in sorted(image.source.rglob("*")) if path.is_file())
        assert (sandbox.path / "mnt" / source.relative_to(image.source)).read_bytes() == source.read_bytes()
        process.terminate()
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, errors
    assert b"File too large" in errors and b"Traceback" not in errors
    assert mounts_below(sandbox.path) == []
    left = [path for path in (sandbox.path / "cache").rglob("*") if path.name.startswith(".")]
    assert left == []
