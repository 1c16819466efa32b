"""The web client against a real server on loopback, and against one that misbehaves."""

from __future__ import annotations

import base64
import http.server
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import some_items, store_at
from tests.support.faultproxy import Fault, FaultProxy
from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreProtocolError,
    StoreReadOnlyError,
    StoreTimeoutError,
    StoreUnreachableError,
)

ITEMS = some_items(40)
IDS = [chunk_id for chunk_id, _ in ITEMS]


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if not self._answer_oddly():
            super().do_GET()

    def do_HEAD(self) -> None:
        if not self._answer_oddly():
            super().do_HEAD()

    def _answer_oddly(self) -> bool:
        wanted = "Basic " + base64.b64encode(b"us:p w").decode()
        odd = {"moved": 302, "private": 401, "broken": 500, "busy": 503, "teapot": 418}
        status = odd.get(self.path.split("/")[1])
        if status == 401 and self.headers["Authorization"] == wanted:
            status = 404
        if status is None:
            return False
        self.send_response(status)
        self.send_header("Location", "http://elsewhere.invalid/hunter2")
        self.send_header("Content-Length", "5")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(b"sorry")
        return True

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, int]]:
    (tmp_path / "chunks").mkdir()
    store_at(f"dir://{tmp_path}/chunks").put_many(ITEMS, within())
    handler = partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running.server_address[0], running.server_address[1]  # type: ignore[misc]
        running.shutdown()


def test_reads_what_a_directory_store_wrote(
    server: tuple[str, int], tmp_path: Path, proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    proxy = proxied(server)
    store = store_at(f"http://{proxy.host}:{proxy.port}/chunks/")
    (tmp_path / "chunks" / "flat").write_bytes(b"flat")
    asked = [*IDS, b"none", b"flat"]
    assert list(store.get_many(asked, within())) == [*(payload for _, payload in ITEMS), None, b"flat"]
    assert store.exists_many(asked, within()) == [True] * 40 + [False, True]
    before = proxy.connections
    assert list(store.get_many(IDS, within())) == [payload for _, payload in ITEMS]
    assert proxy.connections <= before + 1  # the server closes after a 404, and only then
    store.close()


def test_is_never_written(server: tuple[str, int]) -> None:
    with pytest.raises(StoreReadOnlyError):
        store_at(f"http://{server[0]}:{server[1]}/chunks").put_many(ITEMS, within())


@pytest.mark.parametrize(
    ("path", "kind", "reason"),
    [
        ("moved", StoreError, "redirects are not followed"),
        ("private", StoreAuthError, "401"),
        ("broken", StoreUnreachableError, "500"),
        ("busy", StoreUnreachableError, "503"),
        ("teapot", StoreError, "418"),
    ],
)
def test_what_is_no_chunk_is_an_error(
    server: tuple[str, int], path: str, kind: type[StoreError], reason: str
) -> None:
    store = store_at(f"http://us:wr0ng@{server[0]}:{server[1]}/{path}")
    with pytest.raises(StoreError, match=reason) as caught:
        list(store.get_many([b"id"], within()))
    assert type(caught.value) is kind
    assert "hunter2" not in str(caught.value) and "wr0ng" not in str(caught.value)


def test_basic_authentication(server: tuple[str, int]) -> None:
    store = store_at(f"http://us:p%20w@{server[0]}:{server[1]}/private")
    assert list(store.get_many([b"id"], within())) == [None]


def test_a_kept_connection_that_died_is_replaced_unseen(
    server: tuple[str, int], proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    proxy = proxied(server)
    store = store_at(f"http://{proxy.host}:{proxy.port}/chunks")
    for _ in range(3):
        assert list(store.get_many(IDS[:1], within())) == [ITEMS[0][1]]
        proxy.break_connections()


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (b"", StoreUnreachableError),
        (b"garbage\r\n\r\n", StoreProtocolError),
        (b"$5\r\nhello\r\n", StoreProtocolError),
        (HEAD + b"Content-Length: 10\r\n\r\nhalf", StoreUnreachableError),
        (HEAD + b"Content-Length: 999999999999\r\n\r\n", StoreProtocolError),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", StoreUnreachableError),
        (HEAD + b"X: " + b"x" * 70_000 + b"\r\n\r\n", StoreProtocolError),
        (HEAD + b"".join(b"X%d: y\r\n" % number for number in range(200)) + b"\r\n", StoreProtocolError),
    ],
)
def test_answers_that_cannot_be_trusted(answer: bytes, kind: type[StoreError]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=answer_once, args=(listener, answer), daemon=True).start()
        port = listener.getsockname()[1]
        with pytest.raises(kind):
            must_end(lambda: list(store_at(f"http://127.0.0.1:{port}/").get_many([b"id"], within(5))))


def answer_once(listener: socket.socket, answer: bytes) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


@pytest.mark.parametrize(
    "fault", [Fault("silence"), Fault("silence", after=100), Fault("trickle", after=20, seconds=0.05)]
)
def test_a_server_that_stalls(
    server: tuple[str, int], proxied: Callable[[tuple[str, int]], FaultProxy], fault: Fault
) -> None:
    proxy = proxied(server)
    proxy.fault = fault
    store = store_at(f"http://{proxy.host}:{proxy.port}/chunks")
    with pytest.raises(StoreTimeoutError):
        must_end(lambda: list(store.get_many(IDS, within(0.5))))
