"""The zdb client against a small model of 0-db and, where one is given, a real server.

A real one is found through ``$ZEROFS_ZDB`` or ``$PATH``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.store.conftest import within
from tests.store.test_redis_store import check_round_trip, store_at
from tests.store.zdbserver import ZdbServer
from tests.support.redisserver import free_port
from tests.support.resp import RespClient
from zerofs.errors import StoreAuthError, StoreError, StoreReadOnlyError, StoreRefusedError

ADMIN = "adm1n"


class Zdb(NamedTuple):
    port: int
    open_port: int  # of a server without an admin password
    socket: Path | None  # of the first, where it has one


@pytest.fixture(params=["model", "real"])
def zdb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Zdb]:
    """A server with an admin password and the namespaces `open` and `locked` (password `pw`, public)."""
    if request.param == "model":
        namespaces = {b"open": None, b"locked": b"pw"}
        with ZdbServer(admin=ADMIN.encode(), namespaces=namespaces) as server, ZdbServer() as plain:
            yield Zdb(server.port, plain.port, None)
        return
    binary = os.environ.get("ZEROFS_ZDB") or shutil.which("zdb")
    if binary is None:
        pytest.skip("no package offers a 0-db server; name one with ZEROFS_ZDB")
    sock = tmp_path / "zdb.sock"
    port, open_port = free_port(), free_port()
    processes = [
        start_zdb(binary, tmp_path / "a", port, "--admin", ADMIN, "--socket", str(sock), "--dualnet"),
        start_zdb(binary, tmp_path / "b", open_port),
    ]
    try:
        prepare(port)
        yield Zdb(port, open_port, sock)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def start_zdb(binary: str, directory: Path, port: int, *options: str) -> subprocess.Popen[bytes]:
    directory.mkdir()
    command = [binary, "--listen", "127.0.0.1", "--port", str(port), *options]
    command += ["--data", str(directory / "data"), "--index", str(directory / "index")]
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(500):
        try:
            RespClient(("127.0.0.1", port)).close()
        except ConnectionError:
            time.sleep(0.01)
        else:
            return process
    process.kill()
    process.wait()
    raise AssertionError((directory / "log").read_text())


def prepare(port: int) -> None:
    with RespClient(("127.0.0.1", port)) as client:
        client.command("AUTH", ADMIN)
        for name in ("open", "locked"):
            client.command("NSNEW", name)
        client.command("NSSET", "locked", "password", "pw")
        client.command("NSSET", "locked", "public", "1")


@pytest.mark.parametrize(
    "url",
    ["zdb://{at}", "zdb://{at}/default", "zdb://{at}/open", "zdb://:pw@{at}/locked", "zdb://adm1n@{at}"],
)
def test_round_trip(zdb: Zdb, url: str) -> None:
    check_round_trip(store_at(url.format(at=f"127.0.0.1:{zdb.port}")))


def test_nothing_is_sent_unasked() -> None:
    with ZdbServer() as server:
        for url in (f"zdb://127.0.0.1:{server.port}", f"zdb://127.0.0.1:{server.port}/default"):
            list(store_at(url).get_many([b"id"], within()))
    assert set(server.commands) == {b"GET"}


@pytest.mark.parametrize("zdb", ["real"], indirect=True)
def test_over_a_unix_socket(zdb: Zdb) -> None:
    check_round_trip(store_at(f"zdb://{zdb.socket}"))
    check_round_trip(store_at(f"zdb://:pw@{zdb.socket}?namespace=locked"))


def test_namespaces_are_apart(zdb: Zdb) -> None:
    store_at(f"zdb://127.0.0.1:{zdb.port}/open").put_many([(b"id", b"x")], within())
    assert list(store_at(f"zdb://127.0.0.1:{zdb.port}").get_many([b"id"], within())) == [None]


def test_a_public_namespace_reads_without_its_password(zdb: Zdb) -> None:
    store_at(f"zdb://:pw@127.0.0.1:{zdb.port}/locked").put_many([(b"id", b"x")], within())
    store = store_at(f"zdb://127.0.0.1:{zdb.port}/locked")
    assert list(store.get_many([b"id"], within())) == [b"x"]
    with pytest.raises(StoreReadOnlyError):
        store.put_many([(b"id2", b"x")], within())


@pytest.mark.parametrize("url", ["zdb://:hunter2@{at}/locked", "zdb://hunter2@{at}"])
def test_a_wrong_password(zdb: Zdb, url: str) -> None:
    with pytest.raises(StoreAuthError, match="Access denied") as caught:
        list(store_at(url.format(at=f"127.0.0.1:{zdb.port}")).get_many([b"id"], within()))
    assert "hunter2" not in str(caught.value)


def test_an_admin_password_where_there_is_none(zdb: Zdb) -> None:
    with pytest.raises(StoreAuthError, match="Authentication disabled") as caught:
        list(store_at(f"zdb://hunter2@127.0.0.1:{zdb.open_port}").get_many([b"id"], within()))
    assert "hunter2" not in str(caught.value)
    assert "user part" in caught.value.hint


def test_a_namespace_that_does_not_exist(zdb: Zdb) -> None:
    with pytest.raises(StoreRefusedError, match="Namespace not found"):
        list(store_at(f"zdb://127.0.0.1:{zdb.port}/none").get_many([b"id"], within()))


def test_what_is_too_large_is_told_before_the_connection_is_lost(zdb: Zdb) -> None:
    store = store_at(f"zdb://127.0.0.1:{zdb.port}")
    with pytest.raises(StoreError, match="0-db takes"):
        store.put_many([(b"id", bytes(8 * 1024 * 1024 + 1))], within())
    with pytest.raises(StoreError, match="Key too large"):
        store.put_many([(b"k" * 256, b"x")], within())


def test_more_ids_than_fit_in_one_command(zdb: Zdb) -> None:
    store = store_at(f"zdb://127.0.0.1:{zdb.port}")
    ids = [b"%032d" % number for number in range(3000)]
    store.put_many([(each, each) for each in ids[::2]], within())
    expected = [None if number % 2 else each for number, each in enumerate(ids)]
    assert list(store.get_many(ids, within())) == expected
