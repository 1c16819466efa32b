"""The control socket, with clients that behave and clients that do not; no mount is behind it here."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zerofs.errors import MountError
from zerofs.mount import control as control_module
from zerofs.mount import controlplace, inquiry
from zerofs.mount.control import MOST_CLIENTS, MOST_REQUEST, Control
from zerofs.mount.inquiry import Served
from zerofs.mount.watch import Event, Watch

DOCUMENT: dict[str, object] = {"mount": {"target": "/mnt", "device": "0:7"}, "name": os.fsdecode(b"\xff")}


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The directories that are tried, instead of those of the host."""
    found = [tmp_path / "zerofs"]
    monkeypatch.setattr(controlplace, "candidates", lambda owner: found)
    return found


class Serving:
    """A control, and a thread that does what the main thread of a mount does.  Counts how often it wakes up."""

    def __init__(self, provider: Callable[[], dict[str, object]] = lambda: DOCUMENT) -> None:
        self.control = Control(provider)
        self.wakes = 0
        self._end, self._ended = os.pipe()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self.control.fileno(), select.POLLIN)
        poll.register(self._end, select.POLLIN)
        while all(fd != self._end for fd, _ in poll.poll()):
            self.wakes += 1
            self.control.serve()

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        os.write(self._ended, b"x")
        self._thread.join()
        self.control.close()
        os.close(self._end)
        os.close(self._ended)


@pytest.fixture
def serve(places: list[Path]) -> Iterator[Callable[..., Serving]]:
    """Makes one with the provider that it is given; what a test leaves is closed."""
    with contextlib.ExitStack() as stack:

        def start(*provider: Callable[[], dict[str, object]]) -> Serving:
            return stack.enter_context(contextlib.closing(Serving(*provider)))

        yield start


@pytest.fixture
def serving(serve: Callable[..., Serving]) -> Serving:
    return serve()


def me() -> Served:
    return Served("/mnt", os.getpid(), os.geteuid(), "0:7")


@pytest.fixture
def connect(places: list[Path]) -> Iterator[Callable[[], socket.socket]]:
    """A connection to the socket of this process, by its path."""
    with contextlib.ExitStack() as stack:

        def connected() -> socket.socket:
            connection = stack.enter_context(socket.socket(socket.AF_UNIX))
            connection.connect(str(places[0] / f"{os.getpid()}.sock"))
            connection.settimeout(10)
            return connection

        yield connected


Connect = Callable[[], socket.socket]
Serve = Callable[..., Serving]


def everything(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_one_document_a_connection(serving: Serving, connect: Connect) -> None:
    assert inquiry.ask(me()) == DOCUMENT
    connection = connect()
    connection.sendall(b'{"ask": ')
    connection.sendall(b'"stats"}\n{"ask": "stats"}\n')
    assert json.loads(everything(connection)) == DOCUMENT


def test_it_is_private_and_gone_in_the_end(serve: Serve, places: list[Path]) -> None:
    before = os.umask(0)
    try:
        serving = serve()
    finally:
        os.umask(before)
    (name,) = places[0].iterdir()
    assert name.name == f"{os.getpid()}.sock" and stat.S_IMODE(name.stat().st_mode) == 0o600
    assert stat.S_IMODE(places[0].stat().st_mode) == 0o700
    serving.close()
    assert list(places[0].iterdir()) == []


@pytest.mark.parametrize(
    "request_line",
    [b"\n", b"stats\n", b"[]\n", b"{}\n", b"7\n", b'{"ask": "more"}\n', b'{"ask": ["stats"]}\n', b"\xff\n",
     b"[" * (MOST_REQUEST - 1) + b"\n", b"x" * (MOST_REQUEST + 1)],
)  # fmt: skip
def test_a_request_that_makes_no_sense(serving: Serving, connect: Connect, request_line: bytes) -> None:
    connection = connect()
    connection.sendall(request_line)
    assert list(json.loads(everything(connection))) == ["error"]
    assert inquiry.ask(me()) == DOCUMENT


def test_whoever_is_stuck_keeps_nobody_from_an_answer(serving: Serving, connect: Connect) -> None:
    silent = [connect() for _ in range(3)]
    halfway = connect()
    halfway.sendall(b'{"ask"')
    gone = connect()
    gone.close()
    assert inquiry.ask(me()) == DOCUMENT
    halfway.sendall(b': "stats"}\n')
    assert json.loads(everything(halfway)) == DOCUMENT
    assert [connection.fileno() for connection in silent]  # still connected


def test_who_does_not_read_blocks_nobody(serve: Serve, places: list[Path], connect: Connect) -> None:
    document = {**DOCUMENT, "long": "x" * (3 << 20)}
    serve(lambda: document)
    lazy = connect()
    lazy.sendall(b'{"ask": "stats"}\n')
    lazy.recv(10)
    assert inquiry.ask(me()) == document
    assert len(everything(lazy)) > 3 << 20  # it gets all, once it reads


def test_the_newest_take_the_place_of_the_oldest(serving: Serving, connect: Connect) -> None:
    stuck = [connect() for _ in range(MOST_CLIENTS + 3)]
    assert inquiry.ask(me()) == DOCUMENT
    for connection in stuck[:4]:
        assert connection.recv(10) == b""
    stuck[-1].sendall(b'{"ask": "stats"}\n')
    assert json.loads(everything(stuck[-1])) == DOCUMENT


def test_nothing_wakes_up_while_nobody_goes_on(serving: Serving, connect: Connect) -> None:
    stuck = [connect() for _ in range(MOST_CLIENTS)]
    assert inquiry.ask(me()) == DOCUMENT
    before = serving.wakes
    threading.Event().wait(0.3)
    assert serving.wakes == before
    assert stuck


def test_a_provider_that_fails(serve: Serve, places: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> dict[str, object]:
        raise RuntimeError("secret")

    serve(fail)
    with pytest.raises(MountError, match="its log has more") as caught:
        inquiry.ask(me())
    assert "secret" not in str(caught.value)


def test_who_is_somebody_else_is_not_answered(
    serving: Serving, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control_module.os, "geteuid", lambda: 12345)
    monkeypatch.setattr(control_module, "CREDENTIALS", Credentials(54321))
    connection = connect()
    with contextlib.suppress(OSError):
        connection.sendall(b'{"ask": "stats"}\n')
        assert everything(connection) == b""


class Credentials:
    """As if the kernel named another user."""

    size = 12

    def __init__(self, user: int) -> None:
        self._user = user

    def unpack(self, data: bytes) -> tuple[int, ...]:
        process, _, group = struct.unpack("3i", data)
        return process, self._user, group


def test_who_answers_must_be_the_one_that_serves(serving: Serving, places: list[Path]) -> None:
    os.link(places[0] / f"{os.getpid()}.sock", places[0] / f"{os.getppid()}.sock")
    with pytest.raises(OSError):
        inquiry._ask_at_once(me()._replace(owner=os.geteuid() + 1))
    with pytest.raises(OSError):
        inquiry._ask_at_once(me()._replace(process=os.getppid()))
    with pytest.raises(OSError):
        inquiry._ask_at_once(me()._replace(device="0:8"))  # its number was that of another server before


def test_the_directory_is_made_where_it_can_be(serve: Serve, places: list[Path], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("elsewhere")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o755)
    (tmp_path / "file").touch()
    places[:] = [tmp_path / name for name in ("missing/zerofs", "link", "open", "file", "good")]
    serve()
    assert inquiry.ask(me()) == DOCUMENT
    assert list((tmp_path / "good").iterdir()) and not list((tmp_path / "elsewhere").iterdir())
    places[:] = places[:-1]
    with pytest.raises(OSError):
        Control(lambda: DOCUMENT)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away takes root")
def test_a_directory_of_somebody_else_is_not_used(places: list[Path], tmp_path: Path) -> None:
    places[0].mkdir(mode=0o700)
    os.chown(places[0], 12345, 12345)
    with pytest.raises(OSError):
        Control(lambda: DOCUMENT)


def test_a_path_longer_than_a_socket_may_have(serve: Serve, places: list[Path], tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    places[:] = [deep / "zerofs"]
    serve()
    assert inquiry.ask(me()) == DOCUMENT


def test_what_dead_processes_left_is_swept(serve: Serve, places: list[Path]) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    places[0].mkdir(mode=0o700)
    for process in (dead.pid, os.getpid(), os.getppid()):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(places[0] / f"{process}.sock"))
            left.listen()
    (places[0] / "other").touch()
    serve()  # takes the place of who had this number before
    assert {path.name for path in places[0].iterdir()} == {
        f"{os.getpid()}.sock",
        f"{os.getppid()}.sock",  # that process lives: whether it serves nobody knows
        "other",
    }
    assert inquiry.ask(me()) == DOCUMENT


def test_who_listens_is_never_swept(places: list[Path]) -> None:
    """A process of another PID namespace: its number names nobody here."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    places[0].mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(places[0] / f"{dead.pid}.sock"))
        listening.listen()
        inquiry.sweep()
        assert (places[0] / f"{dead.pid}.sock").exists()
    inquiry.sweep()
    assert not (places[0] / f"{dead.pid}.sock").exists()


def test_the_loop_of_a_mount_answers_and_still_sees_signals(places: list[Path]) -> None:
    answers: list[object] = []

    def ask() -> None:
        for _ in range(3):
            answers.append(inquiry.ask(me()))
        os.kill(os.getpid(), signal.SIGHUP)

    with Watch() as watch, contextlib.closing(Control(lambda: DOCUMENT)) as control:
        watch.add_service(control.fileno(), control.serve)
        asking = threading.Thread(target=ask)
        asking.start()
        assert watch.wait(20) == [Event.HUP]
        asking.join()
        assert answers == [DOCUMENT] * 3
        watch.remove_service(control.fileno())


def test_who_asks_does_not_shorten_a_wait(places: list[Path]) -> None:
    with Watch() as watch, contextlib.closing(Control(lambda: DOCUMENT)) as control:
        watch.add_service(control.fileno(), control.serve)
        asking = threading.Thread(target=lambda: inquiry.ask(me()))
        asking.start()
        assert watch.wait(0.5) == []
        asking.join()
        watch.remove_service(control.fileno())
