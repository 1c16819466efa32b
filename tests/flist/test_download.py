"""Flists over HTTP, from a real server on loopback that behaves and misbehaves."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.flist.samples import TREE, read, write
from zerofs.errors import (
    FlistError,
    FlistFormatError,
    FlistNotFoundError,
    FlistTooLargeError,
    FlistUnreachableError,
)
from zerofs.flist.download import displayed, download
from zerofs.flist.source import open_source


class Server(ThreadingHTTPServer):
    """Serves what `content` holds; the path says how."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = b""
        self.seen: list[str | None] = []  # the Authorization of each request
        self.stalled = threading.Event()

    @property
    def authority(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def url(self, path: str) -> str:
        return f"http://{self.authority}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization"))
        self.close_connection = True
        kind = self.path.split("/")[1]
        getattr(self, f"send_{kind}", self.send_nothing)()

    def send_nothing(self) -> None:
        self.send_response(404, "Gone fishing")
        self.end_headers()

    def send_trouble(self) -> None:
        self.send_response(503)
        self.end_headers()

    def send_whole(self, length: int = 0) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content) + length))
        self.end_headers()
        self.wfile.write(self.server.content)

    def send_short(self) -> None:
        self.send_whole(10)

    def send_unsized(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.content)

    def send_chunked(self, ends: bool = True) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(self.server.content), self.server.content))
        if ends:
            self.wfile.write(b"0\r\n\r\n")

    def send_cut(self) -> None:
        self.send_chunked(ends=False)

    def send_stall(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b"x")
        self.wfile.flush()
        self.server.stalled.wait(20)

    def send_drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.stalled.wait(0.02):
                self.wfile.write(b"x")
                self.wfile.flush()
        except OSError:
            pass  # the client has had enough

    def send_redirect(self) -> None:
        self.send_response(302)
        self.send_header("Location", self.path.split("/", 2)[2].replace("/redirect/for-ever", self.path))
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield server
    server.stalled.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("path", ["whole", "unsized", "chunked"])
@pytest.mark.parametrize("format", ["rocksdb", "fl"])
def test_a_flist_from_a_url(server: Server, tmp_path: Path, path: str, format: str) -> None:
    server.content = write(format, tmp_path / "flist").read_bytes()
    assert read(server.url(f"{path}/flist"), tmp_path / "work") == TREE
    assert list((tmp_path / "work").iterdir()) == []


def test_the_digest_is_that_of_the_file(server: Server, tmp_path: Path) -> None:
    flist = write("sqlite", tmp_path / "flist")
    server.content = flist.read_bytes()
    with (
        open_source(server.url("whole/flist"), workdir=tmp_path / "work") as remote,
        open_source(str(flist), workdir=tmp_path / "work") as local,
    ):
        assert remote.digest == local.digest


@pytest.mark.parametrize(
    ("path", "error", "text"),
    [
        ("nothing/here", FlistNotFoundError, "404"),
        ("trouble", FlistUnreachableError, "503"),
        ("short", FlistUnreachableError, "bytes came"),
        ("cut", FlistUnreachableError, "cannot fetch"),
        ("whole", FlistFormatError, "not a flist"),
        ("redirect/file:///etc/passwd", FlistError, "cannot fetch"),
        ("redirect/ftp://127.0.0.1:1/flist", FlistError, "cannot fetch"),
        ("redirect//redirect/for-ever", FlistError, "302"),
    ],
)
def test_should_fail(server: Server, tmp_path: Path, path: str, error: type[FlistError], text: str) -> None:
    server.content = b"no flist" * 100
    with pytest.raises(error, match=text) as caught:
        open_source(server.url(path), workdir=tmp_path / "work")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("path", ["whole", "unsized", "chunked"])
def test_more_than_the_bound(server: Server, tmp_path: Path, path: str) -> None:
    server.content = bytes(100_000)
    with pytest.raises(FlistTooLargeError, match="99999"):
        open_source(server.url(path), workdir=tmp_path / "work", max_size=99_999)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("path", "stall", "total"), [("stall", 0.2, 60.0), ("drip", 60.0, 0.2)])
def test_a_server_that_takes_for_ever(
    server: Server, tmp_path: Path, path: str, stall: float, total: float
) -> None:
    with pytest.raises(FlistError, match=r"timed out|too long"):
        download(
            server.url(path), tmp_path / "flist", max_size=1000, stall_timeout=stall, total_timeout=total
        )
    assert not (tmp_path / "flist").exists()


def test_nobody_listens(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{unused.getsockname()[1]}/flist"
        with pytest.raises(FlistError, match=r"flist: Connection refused$") as caught:
            open_source(url, workdir=tmp_path / "work")
    assert "secret" not in str(caught.value)
    assert list((tmp_path / "work").iterdir()) == []


def test_a_scheme_that_no_flist_comes_by(tmp_path: Path) -> None:
    with pytest.raises(FlistNotFoundError, match=r"ftp://$") as caught:
        open_source("ftp://user:secret@host/flist", workdir=tmp_path / "work")
    assert "https" in caught.value.hint and "secret" not in str(caught.value)
    local = tmp_path / "odd:" / "flist"
    local.parent.mkdir()
    write("fl", local)
    open_source(f"{tmp_path}/odd://flist", workdir=tmp_path / "work").close()


@pytest.mark.parametrize("url", ["http:///flist", "http://[::1/flist", "http://host:port/flist"])
def test_urls_that_make_no_sense(tmp_path: Path, url: str) -> None:
    with pytest.raises(FlistError, match="URL"):
        open_source(url, workdir=tmp_path / "work")


def test_a_password_goes_to_its_host_alone_and_into_no_message(server: Server, tmp_path: Path) -> None:
    server.content = write("fl", tmp_path / "flist").read_bytes()
    basic = "Basic " + base64.b64encode(b"user:p@ss word").decode()
    url = f"http://user:p%40ss%20word@{server.authority}/whole/flist"
    with open_source(url, workdir=tmp_path / "work") as source:
        assert source.argument == url
        assert source.display == server.url("whole/flist")
    with pytest.raises(FlistNotFoundError) as caught:
        open_source(f"http://user:p%40ss%20word@{server.authority}/none", workdir=tmp_path / "work")
    assert "ss" not in str(caught.value).replace("host", "")
    target = server.url("whole/flist").replace("127.0.0.1", "localhost")
    download(
        f"http://user:p%40ss%20word@{server.authority}/redirect/{target}", tmp_path / "copy", max_size=1 << 20
    )
    assert server.seen == [basic, basic, basic, None]


def test_displayed() -> None:
    assert displayed("https://u:p@[::1]:8080/a?b#c") == "https://[::1]:8080/a?b#c"
    assert displayed("http://host/a@b") == "http://host/a@b"
