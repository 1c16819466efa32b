"""The shortest way to an index: what is remembered of a flist, and when it does not count."""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.flist.samples import FOLDER, PLAIN, TREE, write
from zerofs.errors import FlistNotFoundError, FlistUnreachableError
from zerofs.flist import source
from zerofs.flist.load import load_flist
from zerofs.flist.model import Directory, Entry, Kind
from zerofs.flist.source import FlistSource


@pytest.fixture
def digested(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flists whose bytes were read for their digest."""
    found: list[str] = []
    compute = FlistSource.__dict__["digest"].func

    def digest(self: FlistSource) -> bytes:
        if "_computed" not in self.__dict__:
            found.append(self.argument)
            self.__dict__["_computed"] = compute(self)
        return bytes(self.__dict__["_computed"])

    monkeypatch.setattr(FlistSource, "digest", property(digest))
    return found


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_SETTLED", 0)


@pytest.mark.parametrize("format", ["sqlite", "fl"])
@pytest.mark.usefixtures("settled")
def test_a_flist_that_lies_where_it_lay_is_not_read(format: str, tmp_path: Path, digested: list[str]) -> None:
    flist = write(format, tmp_path / "flist")
    contents = {load_flist(str(flist), tmp_path / "state").index.content_hash for _ in range(3)}
    assert (len(contents), len(digested)) == (1, 1)
    shutil.copy2(flist, tmp_path / "copy")
    load_flist(str(tmp_path / "copy"), tmp_path / "state")
    assert len(digested) == 2


@pytest.mark.usefixtures("settled")
def test_a_directory_that_lies_where_it_lay_is_not_read(tmp_path: Path, digested: list[str]) -> None:
    flist = tmp_path / "flist"
    flist.mkdir()
    shutil.unpack_archive(write("rocksdb", tmp_path / "packed"), flist, "gztar")
    for _ in range(2):
        load_flist(str(flist), tmp_path / "state")
    assert len(digested) == 1
    (flist / "router.yaml").write_text("pools: {}\n")
    assert load_flist(str(flist), tmp_path / "state").router == b"pools: {}\n"
    assert len(digested) == 2


@pytest.mark.usefixtures("settled")
def test_another_flist_with_the_size_and_times_of_the_last_is_read(tmp_path: Path) -> None:
    flist, state = write("fl", tmp_path / "flist"), tmp_path / "state"
    first, before = load_flist(str(flist), state).index, flist.stat()
    changed = {**TREE, b"": Directory(FOLDER, [*TREE[b""].entries[:-1], Entry(b"m" * 255, Kind.FILE, PLAIN)])}
    other = write("fl", tmp_path / "other", changed)
    assert other.stat().st_size == before.st_size
    flist.write_bytes(other.read_bytes())
    os.utime(flist, ns=(before.st_atime_ns, before.st_mtime_ns))
    second = load_flist(str(flist), state).index
    assert (first.resolve(b"m" * 255), second.resolve(b"n" * 255)) == (None, None)
    assert second.resolve(b"m" * 255) is not None


def test_a_flist_that_was_just_written_is_read_each_time(tmp_path: Path, digested: list[str]) -> None:
    flist = write("fl", tmp_path / "flist")
    for _ in range(2):
        load_flist(str(flist), tmp_path / "state")
    assert len(digested) == 2
    assert not list((tmp_path / "state").glob("seen-*"))


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"short", b"[]", b"{}", b'{"identity": 1, "digest": 2}', bytes(300)])
def test_what_is_remembered_may_be_damaged(damage: bytes, tmp_path: Path, digested: list[str]) -> None:
    flist = write("fl", tmp_path / "flist")
    content = load_flist(str(flist), tmp_path / "state").index.content_hash
    (seen,) = (tmp_path / "state").glob("seen-*")
    seen.write_bytes(damage)
    assert load_flist(str(flist), tmp_path / "state").index.content_hash == content
    assert len(digested) == 2
    assert seen.read_bytes() != damage


class Web:
    """A web server for the files of a directory, which can go away and come back at its port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = 0
        self.start()

    def start(self) -> None:
        def handler(*arguments: object) -> SimpleHTTPRequestHandler:
            return Quiet(*arguments, directory=self.directory)  # type: ignore[arg-type]

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), handler)  # type: ignore[arg-type]
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def url(self, user: str = "") -> str:
        return f"http://{user}127.0.0.1:{self.port}/flist"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    directory = tmp_path / "web"
    directory.mkdir()
    write("fl", directory / "flist")
    web = Web(directory)
    yield web
    web.stop()


def test_a_url_whose_server_is_gone_leads_where_it_led(
    web: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = tmp_path / "state"
    first = load_flist(web.url("user:hunter2@"), state)
    web.stop()
    with caplog.at_level(logging.WARNING):
        again = load_flist(web.url("user:hunter2@"), state)
    assert again.index.content_hash == first.index.content_hash
    assert (again.format, again.router, again.routes) == (first.format, first.router, first.routes)
    assert "fetched last" in caplog.text and "hunter2" not in caplog.text
    assert not [path for path in state.iterdir() if b"hunter2" in path.read_bytes()]
    caplog.clear()
    web.start()
    with caplog.at_level(logging.WARNING):
        load_flist(web.url(), state)
    assert not caplog.records


def test_a_url_that_is_not_known_or_whose_file_is_gone_is_an_error(web: Web, tmp_path: Path) -> None:
    state = tmp_path / "state"
    load_flist(web.url(), state)
    (web.directory / "flist").unlink()
    with pytest.raises(FlistNotFoundError):
        load_flist(web.url(), state)
    web.stop()
    try:
        with pytest.raises(FlistUnreachableError):
            load_flist(web.url() + "2", state)
        with pytest.raises(FlistUnreachableError):
            load_flist(web.url(), tmp_path / "other")
        for index in state.glob("*.index-*"):
            index.unlink()
        with pytest.raises(FlistUnreachableError):
            load_flist(web.url(), state)
    finally:
        web.start()


def test_a_url_leads_to_what_was_there_last(web: Web, tmp_path: Path) -> None:
    state = tmp_path / "state"
    load_flist(web.url(), state)
    write("sqlite", web.directory / "flist")
    newer = load_flist(web.url(), state)
    web.stop()
    try:
        assert load_flist(web.url(), state).format == newer.format == "sqlite"
    finally:
        web.start()
