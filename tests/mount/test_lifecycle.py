"""How a mount begins and ends: signals, unmounting from outside, daemons, killed processes, shared caches."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.mount.conftest import Image, holding, write
from tests.support.mounts import mounted_at, mounts_below
from tests.support.sandbox import BINARIES, MountProcess, Sandbox
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CONTENT = {f"f{n}": random.Random(n).randbytes(n * 30_000) for n in range(40)}


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    return pack("image", holding(CONTENT))


def temporary_files(sandbox: Sandbox) -> list[Path]:
    """What a mount must not leave: all of the cache but its database, its marks and its compiled indexes."""
    cache = sandbox.path / "cache"
    known = {"data.mdb", "lock.mdb", "users.lock", "recency", "flists"}
    left = [path for path in cache.iterdir() if path.name not in known]
    kept = (".json", ".index-1", ".profile")
    return left + [path for path in (cache / "flists").iterdir() if path.suffix not in kept]


def runs(process: int) -> bool:
    """Whether there is such a process, and not only what nobody has waited for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("backend", [False, True])
def test_signals_end_it(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox, number: int, backend: bool
) -> None:
    options = ["--backend", str(sandbox.path / "backend")] if backend else []
    mount = mounted(image, *options)
    assert (mount.target / "f1").read_bytes() == CONTENT["f1"]
    assert mount.stop(number) == 0
    assert mounts_below(sandbox.path) == []
    assert temporary_files(sandbox) == []


@pytest.mark.parametrize(
    "command", [["umount"], ["umount", "-l"], ["fusermount", "-u"], [str(BINARIES / "zerofs"), "umount"]]
)
def test_unmounting_ends_it(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox, command: list[str]
) -> None:
    for options in ([], ["--backend", str(sandbox.path / "backend")]):
        if options and "fusermount" in command[0]:
            continue  # which unmounts FUSE only
        mount = mounted(image, *options)
        subprocess.run([*command, mount.target], check=True)
        assert mount.wait() == 0
        assert mounts_below(sandbox.path) == []


def test_a_busy_mount_is_detached(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    for options in ([], ["--backend", str(sandbox.path / "backend")]):
        mount = mounted(image, *options)
        held = os.open(mount.target / "f3", os.O_RDONLY)
        try:
            assert os.pread(held, 10, 0) == CONTENT["f3"][:10]
            assert mount.stop() == 0
            assert mounts_below(sandbox.path) == []
            with pytest.raises(OSError, match="not connected"):
                os.pread(held, 10, 80_000)
        finally:
            with contextlib.suppress(OSError):  # nobody is there to be told of the close
                os.close(held)


def test_readers_of_a_detached_mount_lose_it_and_nothing_else_happens(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    """They go on asking while everything that answers them is taken down: the process still ends as it should."""
    for _ in range(3):
        mount = mounted(image, "--ro", "--cache", sandbox.path / "cache")
        held = [os.open(mount.target / name, os.O_RDONLY) for name in CONTENT]
        readers = [threading.Thread(target=_read_until_it_is_gone, args=(held, seed)) for seed in range(6)]
        try:
            for reader in readers:
                reader.start()
            time.sleep(0.1)
            assert mount.stop() == 0
            for reader in readers:
                reader.join(10)
                assert not reader.is_alive()
        finally:
            for descriptor in held:
                with contextlib.suppress(OSError):  # nobody is there to be told of the close
                    os.close(descriptor)


def test_an_aborted_connection_is_an_ordinary_end(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    """As somebody forces it who cannot unmount: the sandbox fails the test for warnings in the log."""
    control = sandbox.directory("control")
    subprocess.run(["mount", "-t", "fusectl", "control", control], check=True)
    try:
        for options in (["--ro"], []):
            mount = mounted(image, *options, "--backend", sandbox.path / "backend")
            below = mount.target if options else sandbox.path / "backend/ro"
            held = os.open(below / "f3", os.O_RDONLY)
            reader = threading.Thread(target=_read_until_it_is_gone, args=([held], 1))
            reader.start()
            (control / str(os.minor(os.fstat(held).st_dev)) / "abort").write_text("1")
            assert mount.wait() == 0
            reader.join(10)
            assert not reader.is_alive()
            with contextlib.suppress(OSError):  # nobody is there to be told of the close
                os.close(held)
            assert mounts_below(sandbox.path) == [mounted_at(control)]
    finally:
        subprocess.run(["umount", control], check=True)


def _read_until_it_is_gone(descriptors: list[int], seed: int) -> None:
    chance = random.Random(seed)
    while True:
        descriptor = chance.choice(descriptors)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.pread(descriptor, 100_000, 0)
        except OSError as error:
            if error.errno != errno.EIO:  # what is not in the cache cannot be had any more
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
                return


def test_a_namespace_that_holds_the_mount_keeps_it(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    mount = mounted(image, "--backend", sandbox.path / "backend")
    go_on = sandbox.path / "go-on"
    os.mkfifo(go_on)
    script = f"cat {go_on} > /dev/null; cat {mount.target}/f5 | cksum"
    holder = subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script], stdout=subprocess.PIPE
    )
    writers: list[int] = []

    def is_read() -> bool:  # whoever reads it has its namespace
        with contextlib.suppress(OSError):
            writers.append(os.open(go_on, os.O_WRONLY | os.O_NONBLOCK))
        return bool(writers)

    eventually(is_read, "a container")
    subprocess.run(["umount", mount.target], check=True)
    time.sleep(0.3)
    assert mount.process.poll() is None  # the container still sees it
    os.close(writers[0])
    expected = subprocess.run(["cksum"], input=CONTENT["f5"], capture_output=True, check=True).stdout
    assert holder.communicate(timeout=10)[0] == expected
    assert mount.wait() == 0


def test_the_next_mount_cleans_up_after_a_kill(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    backend = sandbox.path / "backend"
    mount = mounted(image, "--backend", backend)
    (mount.target / "mine").write_text("kept")
    mount.stop(signal.SIGKILL)
    with pytest.raises(OSError):
        os.listdir(mount.target / ".")
        (mount.target / "f7").read_bytes()
    mount = mounted(image, "--backend", backend, allow=["dead process"])
    assert (mount.target / "mine").read_text() == "kept"
    assert (mount.target / "f7").read_bytes() == CONTENT["f7"]
    mount.stop()
    assert mounts_below(sandbox.path) == []

    mount = mounted(image, "--ro")
    mount.stop(signal.SIGKILL)
    mount = mounted(image, "--ro", allow=["dead process"])
    assert (mount.target / "f7").read_bytes() == CONTENT["f7"]


@pytest.mark.parametrize("spelling", ["-", "--"])
def test_daemon(image: Image, sandbox: Sandbox, spelling: str) -> None:
    target, pid_file = sandbox.directory("mnt"), sandbox.path / "pid"
    done = sandbox.run(
        "g8ufs",
        *(
            f"{spelling}storage-url",
            f"dir://{image.store}",
            f"{spelling}ro",
            f"{spelling}cache",
            sandbox.path / "cache",
        ),
        *(f"{spelling}meta", image.flist, f"{spelling}daemon", f"{spelling}log={sandbox.path / 'log'}"),
        *(f"{spelling}pid", pid_file),
        target,
    )
    assert done.stdout == b"mount starts\n" and done.stderr == b""
    seen = mounted_at(target)
    assert seen is not None and seen.type == "fuse.g8ufs"
    assert pid_file.read_text().strip() == seen.source
    assert (target / "f2").read_bytes() == CONTENT["f2"]
    arguments = Path(f"/proc/{seen.source}/cmdline").read_bytes().split(b"\0")
    assert os.fsencode(image.flist) in arguments and os.fsencode(target) in arguments
    sandbox.run("zerofs", "umount", target)
    assert not pid_file.exists() and not runs(int(seen.source))


def test_daemon_tells_the_true_status(image: Image, sandbox: Sandbox) -> None:
    log = ["--daemon", "--log", sandbox.path / "log", "--cache", sandbox.path / "cache"]
    missing = sandbox.run(
        "g8ufs", *log, "--ro", "--meta", sandbox.path / "missing", sandbox.directory("mnt"), status=3
    )
    assert missing.stdout == b"" and missing.stderr.count(b"\n") == 1
    nowhere = sandbox.run("g8ufs", *log, "--meta", image.flist, sandbox.path / "nowhere", status=5)
    assert nowhere.stdout == b"" and b"nowhere" in nowhere.stderr
    assert mounts_below(sandbox.path) == []


def test_daemon_with_relative_paths(image: Image, sandbox: Sandbox) -> None:
    sandbox.directory("mnt")
    arguments = [
        "--daemon",
        "--log",
        "log",
        "--cache",
        "cache",
        "--backend",
        "backend",
        "--meta",
        image.flist.name,
    ]
    sandbox.run("0-fs", *arguments, "--storage-url", f"dir://{image.store}", "mnt", cwd=sandbox.path)
    assert (sandbox.path / "mnt" / "f4").read_bytes() == CONTENT["f4"]
    sandbox.run("zerofs", "umount", sandbox.path / "mnt")
    assert (sandbox.path / "log").exists()


def test_log_in_the_backend_survives_a_reset(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    backend = sandbox.directory("backend")
    write(backend / "rw" / "old", "old")
    log = write(backend / "logs" / "log", "first line\n")
    mount = mounted(image, "--reset", "--backend", backend, "--log", log)
    assert not (mount.target / "old").exists()
    mount.stop()
    assert log.read_text().startswith("first line\n") and "ending" in log.read_text()


def test_the_read_write_layer_persists(
    image: Image, mounted: Callable[..., MountProcess], sandbox: Sandbox
) -> None:
    backend = sandbox.path / "backend"
    mount = mounted(image, "--backend", backend)
    (mount.target / "mine").write_text("mine")
    (mount.target / "f1").unlink()
    (mount.target / "f2").write_bytes(b"changed")
    mount.stop()
    mount = mounted(image, "--backend", backend)
    assert (mount.target / "mine").read_text() == "mine"
    assert not (mount.target / "f1").exists()
    assert (mount.target / "f2").read_bytes() == b"changed"
    mount.stop()
    mount = mounted(image, "--backend", backend, "--reset")
    assert not (mount.target / "mine").exists()
    assert (mount.target / "f2").read_bytes() == CONTENT["f2"]


def test_in_memory_by_default(image: Image, sandbox: Sandbox) -> None:
    mount = sandbox.mount(*image.options, "--rw-size", "1M")
    (mount.target / "mine").write_text("mine")
    with pytest.raises(OSError, match="No space left"):
        (mount.target / "large").write_bytes(bytes(2 << 20))
    other = sandbox.mount(*image.options, target=sandbox.directory("other"))
    assert not (other.target / "mine").exists()
    upper = next(
        option for option in str(mounted_at(mount.target)).split(",") if "upperdir=" in option
    ).split("=")[1]
    other.stop()
    mount.stop()
    assert not Path(upper).exists() and not Path(upper).parents[1].exists()
    mount = sandbox.mount(*image.options)
    assert not (mount.target / "mine").exists()


def test_without_a_flist_the_lower_layer_is_what_stands_in_the_backend(sandbox: Sandbox) -> None:
    backend = sandbox.directory("backend")
    write(backend / "ro" / "restored", "from a backup")
    mount = sandbox.mount("--backend", backend, "--reset")
    assert (mount.target / "restored").read_text() == "from a backup"
    (mount.target / "restored").write_text("changed")
    assert (backend / "ro" / "restored").read_text() == "from a backup"
    assert mount.stop() == 0


def test_two_mounts_share_a_cache_from_the_first_moment(image: Image, sandbox: Sandbox) -> None:
    mounts: list[MountProcess] = []

    def mount(name: str) -> None:
        mounts.append(
            sandbox.mount(
                *("--meta", image.flist, "--ro", "--storage-url", f"dir://{image.store}"),
                *("--cache", sandbox.path / "cache"),
                target=sandbox.directory(name),
            )
        )

    threads = [threading.Thread(target=mount, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mounts) == 2
    for name, content in CONTENT.items():
        for each in mounts:
            assert (each.target / name).read_bytes() == content
    assert [each.stop() for each in mounts] == [0, 0]
    assert temporary_files(sandbox) == []


def test_a_signal_while_it_is_being_set_up(image: Image, sandbox: Sandbox) -> None:
    """At any instant of the set-up: nothing stays mounted."""
    for delay in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3):
        process = subprocess.Popen(
            [BINARIES / "g8ufs", "--meta", image.flist, "--cache", sandbox.path / "cache",
             "--backend", sandbox.path / "backend", sandbox.directory("mnt")],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        process.terminate()
        process.wait(timeout=15)
        assert mounts_below(sandbox.path) == [], delay
