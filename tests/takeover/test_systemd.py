"""As a service: what systemd is told, and a supervisor that is killed and started again while somebody reads."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.mount.conftest import Image
from tests.support.logs import unexpected
from tests.support.mounts import mounted_at, mounts_below
from tests.support.sandbox import BINARIES, PROCESS_END, Sandbox
from tests.support.waiting import eventually
from tests.takeover.conftest import REPLACED, Readers, Supervised, base, hang_up, update

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

ALLOWED = (
    r"the supervisor is dead: the mount waits for another one",
    r"taking away the backend of a dead process",  # another test's, from the place that all share
)


class Service(Supervised):
    """A mount that the service manager in `servicemanager.py` has started."""

    def __init__(
        self, sandbox: Sandbox, image: Image, kill_mode: str, options: list[str], command: str
    ) -> None:
        self.target, self.image, self._sandbox = sandbox.directory("mnt"), image, sandbox
        self.place = sandbox.directory("manager")
        self._log = self.place / "log"
        program = Path(__file__).parent / "servicemanager.py"
        words = [str(BINARIES / command), *options, str(self.target)]
        with self._log.open("ab") as log:
            self.manager = subprocess.Popen(
                [sys.executable, program, self.place, kill_mode, *words], stdout=log, stderr=log
            )
        eventually(lambda: self.state("ready"), "READY=1")

    def state(self, name: str) -> Any:
        try:
            return json.loads((self.place / "state").read_bytes())[name]
        except FileNotFoundError:
            return None

    def log(self) -> str:
        return self._log.read_text()

    def kill_supervisor(self) -> None:
        ready = self.state("ready")
        os.kill(self.state("main"), signal.SIGKILL)
        eventually(lambda: self.state("ready") > ready, "READY=1 of the next supervisor")

    def stop(self) -> int:
        self.manager.send_signal(signal.SIGTERM)
        self.manager.wait(PROCESS_END)
        return self.state("status")  # type: ignore[no-any-return]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.manager.poll() is None:
            self.manager.send_signal(signal.SIGTERM)
            self.manager.wait(PROCESS_END)


Start = Callable[..., Service]


@pytest.fixture
def service(sandbox: Sandbox) -> Iterator[Start]:
    """``service(image, *options)``: read-only unless a ``--backend`` is among the options."""
    started: list[Service] = []
    allowed = [*REPLACED, *ALLOWED]

    def start(
        image: Image,
        *options: str | os.PathLike[str],
        kill_mode: str = "mixed",
        supervised: bool = True,
        allow: tuple[str, ...] = (),
    ) -> Service:
        chosen = list(map(os.fspath, options))
        chosen += ["--supervised"] * supervised + ["--ro"] * ("--backend" not in chosen)
        chosen += ["--storage-url", f"dir://{image.store}", "--cache", str(sandbox.path / "cache")]
        allowed.extend(allow)
        started.append(Service(sandbox, image, kill_mode, [*chosen, "--meta", str(image.flist)], "g8ufs"))
        return started[-1]

    yield start
    for each in started:
        with each:
            pass
        assert list(unexpected(each.log(), allowed)) == []


@pytest.mark.parametrize("kill_mode", ["control-group", "process"])
def test_a_killed_supervisor_is_followed_by_another(
    kill_mode: str, image: Image, service: Start, readers: Callable[[Supervised], Readers], sandbox: Sandbox
) -> None:
    """With what was left of the service told to end, or left alone (elsewhere killed): no reader sees an error."""
    mount = service(image, kill_mode=kill_mode)
    process, stored = mount.state("main"), len(mount.state("stored"))
    reading = readers(mount)
    for count in (1, 2):
        mount.kill_supervisor()
        seen = mounted_at(mount.target)
        assert seen is not None and seen.source == str(process) == str(mount.state("main"))
        told = mount.stats()["mount"]
        assert (told["process"], told["takeovers"]) == (process, count)
    os.kill(mount.server, signal.SIGKILL)
    eventually(lambda: mount.stats()["mount"]["takeovers"] == 3, "a takeover by the last supervisor")
    assert json.loads(mount.upgrade().stdout)["takeovers"] == 4
    reading.end()
    mount.check()
    eventually(lambda: len(mount.state("stored")) == stored, "no more than at first")
    assert (mount.state("refused"), mount.state("aliens")) == (0, 0)
    assert mount.stop() == 0
    assert mounts_below(sandbox.path) == []
    assert mount.state("stored") == []
    assert "STOPPING=1" in mount.state("told")


def test_a_live_swap_outlives_its_supervisor(
    pack: Callable[..., Image], service: Start, sandbox: Sandbox
) -> None:
    backend = sandbox.directory("backend")
    mount = service(pack("base", base), "--backend", backend, "--reset")
    root = mount.target
    (root / "mine").write_text("in the read-write layer")
    with (root / "held").open() as held:
        hang_up(mount.state("main"), backend, pack("update", update).flist)
        eventually(lambda: "swapped the tree" in mount.log(), "the swap")
        mount.kill_supervisor()
        assert (root / "fresh").read_text() == "fresh"
        assert (root / "mine").read_text() == "in the read-write layer"
        assert held.read() == "old, and held open"
    eventually(lambda: (root / "held").read_text() == "new", "the new file under a name that was held")
    assert mount.stop() == 0
    assert mounts_below(sandbox.path) == []


def test_a_supervisor_that_dies_in_a_swap(
    pack: Callable[..., Image], service: Start, sandbox: Sandbox, next_server: Callable[[str], None]
) -> None:
    """What the kernel may have learned is deposited by then."""
    backend = sandbox.directory("backend")
    next_server(
        "import os\nfrom zerofs.mount import flistmount\n"
        "flistmount.FlistMount.forget = lambda *_: os.kill(os.getppid(), 9)\n"
    )
    mount = service(pack("base", base), "--backend", backend, "--reset")
    next_server("")
    assert (mount.target / "held").read_text() == "old, and held open"
    hang_up(mount.state("main"), backend, pack("update", update).flist)
    eventually(lambda: mount.state("ready") == 2, "the next supervisor")
    eventually(lambda: (mount.target / "fresh").exists(), "the new tree")
    eventually(lambda: (mount.target / "held").read_text() == "new", "the new file")


NO_NUMBER = """
import errno
from zerofs.mount import deposit
def spawn_as(*_): raise PermissionError(errno.EPERM, "Operation not permitted")
deposit.spawn_as = spawn_as
"""


def test_a_number_that_cannot_be_had_again(
    image: Image,
    service: Start,
    readers: Callable[[Supervised], Readers],
    sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mount goes on with a source that is no process, and can still be asked."""
    hook = sandbox.directory("number")
    (hook / "sitecustomize.py").write_text(NO_NUMBER)
    monkeypatch.setenv("PYTHONPATH", str(hook), prepend=os.pathsep)
    mount = service(image, allow=(r"no process can have the number \d+ again",))
    process = mount.state("main")
    reading = readers(mount)
    mount.kill_supervisor()
    assert mount.state("main") != process
    assert mount.stats()["mount"]["process"] == process
    mount.upgrade()
    reading.end()
    sandbox.run("zerofs", "umount", mount.target)
    eventually(lambda: mount.state("status") == 0, "the end of the service")
    assert mounts_below(sandbox.path) == []


def test_a_busy_mount_is_let_go_at_the_end(
    pack: Callable[..., Image], service: Start, sandbox: Sandbox
) -> None:
    """What is deposited keeps nobody in a mount that has ended."""
    mount = service(pack("base", base))
    file = os.open(mount.target / "kept", os.O_RDONLY | os.O_DIRECT)
    try:
        assert mount.stop() == 0
        assert mount.state("stored") == []
        assert mounts_below(sandbox.path) == []
        with pytest.raises(OSError, match=r"not connected|aborted"):
            os.preadv(file, [mmap.mmap(-1, 4096)], 0)
    finally:
        with contextlib.suppress(OSError):
            os.close(file)


def test_without_a_supervisor(pack: Callable[..., Image], service: Start) -> None:
    """READY=1 and STOPPING=1 are told of every mount."""
    mount = service(pack("base", base), supervised=False)
    assert (mount.target / "kept").is_file()
    assert (mount.state("told"), mount.state("stored")) == (["READY=1"], [])
    assert mount.stop() == 0
    assert mount.state("told") == ["READY=1", "STOPPING=1"]


def test_a_daemon_says_who_goes_on(pack: Callable[..., Image], service: Start, sandbox: Sandbox) -> None:
    mount = service(pack("base", base), "--daemon", "--log", sandbox.path / "daemon.log", supervised=False)
    seen = mounted_at(mount.target)
    assert seen is not None
    assert mount.state("told") == [f"MAINPID={seen.source}", "READY=1"]
    assert mount.stop() == 0
    assert mount.state("refused") == 0
