"""The RESP client against a real redis-server: log-in, pipelining, connections kept and lost."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.store.conftest import must_end, within
from tests.support.faultproxy import FaultProxy
from tests.support.redisserver import RedisServer, free_port
from zerofs.errors import (
    StoreAuthError,
    StoreError,
    StoreReadOnlyError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.store import connection, pool
from zerofs.store.base import MAX_BATCH, Payload, Store, open_store
from zerofs.store.url import parse_store_url

Start = Callable[..., RedisServer]
CHUNK = 512 * 1024


def store_at(url: str) -> Store:
    return open_store(parse_store_url(url))


def some_items(count: int = 300) -> list[tuple[bytes, bytes]]:
    noise = random.Random(7)
    sizes = [1, 17, 40, 5000, 70_000, CHUNK]
    return [(noise.randbytes(16), noise.randbytes(sizes[i % len(sizes)])) for i in range(count)]


def check_round_trip(store: Store) -> None:
    items = some_items(60)
    ids = [chunk_id for chunk_id, _ in items]
    store.put_many(items, within())
    store.put_many(items[:5], within())  # once more is no error
    assert store.exists_many([*ids, b"none"], within()) == [True] * 60 + [False]
    asked = [b"none", *ids, b"f" * 64]
    assert list(store.get_many(asked, within())) == [None, *(payload for _, payload in items), None]
    assert list(store.get_many([], within())) == []


def test_round_trip(redis_server: Start) -> None:
    server = redis_server()
    check_round_trip(store_at(server.url))
    check_round_trip(store_at(f"ardb://{server.host}:{server.port}"))


def test_round_trip_over_a_unix_socket(redis_server: Start) -> None:
    server = redis_server(unixsocket=True, password="pw")
    check_round_trip(store_at(f"unix://pw@{server.socket}?db=3"))


@pytest.mark.parametrize("user", ["s%40crEt", ":s%40crEt", "default:s%40crEt", "bob:b%3Ab"])
def test_every_form_of_password(redis_server: Start, user: str) -> None:
    server = redis_server(password="s@crEt", args=["--user", "bob", "on", ">b:b", "~*", "+@all"])
    check_round_trip(store_at(f"redis://{user}@{server.host}:{server.port}"))


@pytest.mark.parametrize("user", ["", "hunter2@", ":hunter2@", "nobody:hunter2@"])
def test_a_wrong_password_is_told_and_not_shown(redis_server: Start, user: str) -> None:
    server = redis_server(password="right")
    store = store_at(f"redis://{user}{server.host}:{server.port}")
    with pytest.raises(StoreAuthError) as caught:
        list(store.get_many([b"id"], within()))
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"
    assert str(caught.value).startswith(f"redis://{server.host}:{server.port}: ")


def test_a_password_where_none_is_wanted(redis_server: Start) -> None:
    server = redis_server()
    with pytest.raises(StoreAuthError):
        list(store_at(f"redis://hunter2@{server.host}:{server.port}").get_many([b"id"], within()))


def test_databases_are_apart_and_the_first_is_not_selected(redis_server: Start) -> None:
    server = redis_server()
    store_at(f"{server.url}/5").put_many([(b"id", b"five")], within())
    store_at(f"{server.url}/0").put_many([(b"id", b"zero")], within())
    assert list(store_at(f"{server.url}/5").get_many([b"id"], within())) == [b"five"]
    with pytest.raises(StoreRefusedError, match="out of range"):
        list(store_at(f"{server.url}/9999").get_many([b"id"], within()))
    with server.client() as client:
        stats = client.command("INFO", "commandstats").decode()
    assert "calls=2" in stats.split("cmdstat_select:")[1].splitlines()[0]  # database 5 and 9999
    assert "cmdstat_hello" not in stats and "cmdstat_client" not in stats


def test_megabytes_in_flight_both_ways_do_not_lock_up(redis_server: Start) -> None:
    store = store_at(redis_server().url)
    items = [(b"%064x" % number, os.urandom(CHUNK)) for number in range(100)]
    must_end(lambda: store.put_many(items, within(60)))
    echoed = must_end(lambda: list(store.get_many([chunk_id for chunk_id, _ in items], within(60))))
    assert echoed == [payload for _, payload in items]


def test_a_value_of_another_type_fails_that_id_only(redis_server: Start) -> None:
    server = redis_server()
    with server.client() as client:
        client.command("LPUSH", "list", "x")
    store = store_at(server.url)
    with pytest.raises(StoreError, match="WRONGTYPE") as caught:
        list(store.get_many([b"list"], within()))
    assert not isinstance(caught.value, StoreUnreachableError | StoreRefusedError)


def test_a_read_only_user_and_a_read_only_replica(redis_server: Start) -> None:
    primary = redis_server()
    replica = redis_server(args=["--replicaof", primary.host, str(primary.port)])
    with pytest.raises(StoreReadOnlyError):
        store_at(replica.url).put_many([(b"id", b"x")], within())


def test_an_abandoned_iterator_does_not_mix_answers(redis_server: Start) -> None:
    store = store_at(redis_server().url)
    items = some_items()
    store.put_many(items, within())
    for stop in (1, 3, 70):
        answers = store.get_many([chunk_id for chunk_id, _ in items], within())
        assert [next(answers) for _ in range(stop)] == [payload for _, payload in items[:stop]]
        del answers
        assert list(store.get_many([items[9][0]], within())) == [items[9][1]]


def test_connections_are_kept_and_shared(
    redis_server: Start, proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    url = f"redis://{proxy.host}:{proxy.port}"
    assert store_at(url) is store_at(url)
    for _ in range(20):
        assert list(store_at(url).get_many([b"id"], within())) == [None]
    assert proxy.connections == 1


def test_a_kept_connection_that_died_is_replaced_unseen(
    redis_server: Start, proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    store = store_at(f"redis://{proxy.host}:{proxy.port}")
    store.put_many([(b"id", b"x")], within())
    proxy.break_connections()
    assert list(store.get_many([b"id"], within())) == [b"x"]
    assert proxy.connections == 2


def test_many_threads_share_one_store(redis_server: Start) -> None:
    store = store_at(redis_server().url)
    items = some_items()
    store.put_many(items, within())
    wrong: list[int] = []

    def read(seed: int) -> None:
        mine = random.Random(seed).sample(items, 100)
        if list(store.get_many([chunk_id for chunk_id, _ in mine], within(30))) != [p for _, p in mine]:
            wrong.append(seed)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


FORK = """
import os, sys, time
from zerofs.store.base import open_store
from zerofs.store.url import parse_store_url
store = open_store(parse_store_url(sys.argv[1]))
ids = [b"%064x" % number for number in range(200)]
store.put_many([(each, each * 50) for each in ids], time.monotonic() + 10)
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
assert list(store.get_many(ids, time.monotonic() + 10)) == [each * 50 for each in ids]
os._exit(0)
"""


def test_a_connection_does_not_cross_a_fork(
    redis_server: Start, proxied: Callable[[tuple[str, int]], FaultProxy]
) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    command = [sys.executable, "-c", FORK, f"redis://{proxy.host}:{proxy.port}"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    assert proxy.connections == 2  # one each


def test_nobody_listens() -> None:
    with pytest.raises(StoreUnreachableError, match="refused") as caught:
        list(store_at(f"redis://127.0.0.1:{free_port()}").get_many([b"id"], within()))
    assert caught.value.exit_code == 1


def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(StoreUnreachableError, match=r"^redis://nowhere\.invalid:6379: the name"):
        must_end(lambda: list(store_at("redis://nowhere.invalid").get_many([b"id"], within())))


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()
    real = socket.getaddrinfo

    def hang(host: str, port: int, *, type: int, flags: int) -> object:
        if flags == 0:
            let_go.wait(30)
        return real(host, port, type=type, flags=flags)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(StoreTimeoutError, match="not resolved in time"):
            must_end(lambda: list(store_at("redis://slow.invalid").get_many([b"id"], within(0.3))))
    finally:
        let_go.set()


def test_no_socket_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnreachableError, match="No such file"):
        list(store_at(f"unix://{tmp_path}/none.sock").get_many([b"id"], within()))


@pytest.fixture
def tls_url(redis_server: Start, certificate: Path) -> str:
    port = free_port()
    options = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    options += ["--tls-cert-file", str(certificate / "cert.pem")]
    options += ["--tls-key-file", str(certificate / "key.pem")]
    redis_server(password="pw", args=options)
    return f"rediss://pw@127.0.0.1:{port}"


@pytest.mark.usefixtures("trusted")
def test_round_trip_over_tls(tls_url: str) -> None:
    store = store_at(tls_url)
    check_round_trip(store)
    items = [(b"%064x" % number, os.urandom(CHUNK)) for number in range(40)]
    must_end(lambda: store.put_many(items, within(60)))
    assert must_end(lambda: list(store.get_many([i for i, _ in items], within(60)))) == [p for _, p in items]
    store.close()


def test_a_certificate_that_is_not_trusted(tls_url: str) -> None:
    with pytest.raises(StoreRefusedError, match="certificate is not trusted") as caught:
        list(store_at(tls_url).get_many([b"id"], within()))
    assert "SSL_CERT_FILE" in caught.value.hint


def test_tls_to_a_server_without_it(redis_server: Start) -> None:
    server = redis_server()
    store = store_at(f"rediss://127.0.0.1:{server.port}")
    with pytest.raises(StoreTimeoutError, match="no TLS in time"):
        must_end(lambda: list(store.get_many([b"id"], within(0.5))))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=greet, args=(listener,), daemon=True).start()
        store = store_at(f"rediss://127.0.0.1:{listener.getsockname()[1]}")
        with pytest.raises(StoreUnreachableError, match="no TLS: "):
            must_end(lambda: list(store.get_many([b"id"], within(5))))


def greet(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.sendall(b"-ERR this is no TLS\r\n")
        connection.recv(65536)


def test_a_connection_that_was_idle_for_long_is_not_trusted(
    redis_server: Start, proxied: Callable[[tuple[str, int]], FaultProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = redis_server()
    proxy = proxied((server.host, server.port))
    store = store_at(f"redis://{proxy.host}:{proxy.port}")
    monkeypatch.setattr(pool, "MAX_IDLE_SECONDS", 0)
    for _ in range(3):
        assert list(store.get_many([b"id"], within())) == [None]
    assert proxy.connections == 3


def test_a_store_can_be_used_after_it_was_closed(redis_server: Start) -> None:
    store = store_at(redis_server().url)
    for _ in range(2):
        assert list(store.get_many([b"id"], within())) == [None]
        store.close()


# -- batches -------------------------------------------------------------------------------


def copied(batch: Sequence[Payload | None]) -> list[bytes | None]:
    """A batch that stays as it is when the next one is asked for."""
    return [None if payload is None else bytes(payload) for payload in batch]


def test_batches_hold_what_is_asked_for_in_order_and_within_bounds(
    redis_server: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(redis_server().url)
    items = some_items()
    store.put_many(items, within(30))
    asked = [b"none", *(chunk_id for chunk_id, _ in items), b"none"]
    expected = [None, *(payload for _, payload in items), None]
    for most in (MAX_BATCH, 100_000, 1):
        monkeypatch.setattr(connection, "MAX_BATCH", most)
        batches = must_end(lambda: [copied(batch) for batch in store.get_batches(asked, within(30))])
        assert [payload for batch in batches for payload in batch] == expected
        assert all(batches)
        assert all(sum(len(payload or b"") for payload in batch[:-1]) < most for batch in batches)
    assert list(store.get_batches([], within())) == []


def answering(now: bytes, later: bytes = b"") -> tuple[socket.socket, Store, threading.Event]:
    """A server that answers `now` and, after the event, `later`; and the store there."""
    listener = socket.create_server(("127.0.0.1", 0))
    go_on = threading.Event()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(now)
            go_on.wait(30)
            connection.sendall(later)
            if later:
                connection.recv(65536)

    threading.Thread(target=serve, daemon=True).start()
    return listener, store_at(f"redis://127.0.0.1:{listener.getsockname()[1]}"), go_on


def test_what_arrived_together_is_handed_out_together_and_waits_for_nothing_more() -> None:
    listener, store, go_on = answering(b"$1\r\na\r\n$-1\r\n$1\r\nc\r\n$1\r", b"\nd\r\n$1\r\ne\r\n")
    with listener:
        batches = store.get_batches([b"1", b"2", b"3", b"4", b"5"], within(5))
        assert must_end(lambda: next(batches)) == [b"a", None, b"c"]
        go_on.set()  # had it waited for the fourth, its time would be over now
        assert must_end(lambda: list(batches)) == [[b"d", b"e"]]


def test_who_has_little_patience_is_told_that_nothing_came_and_waits_on_if_he_likes() -> None:
    listener, store, go_on = answering(b"$1\r\na\r\n", b"$1\r\nb\r\n")
    with listener:
        batches = store.get_batches([b"1", b"2"], within(20), patience=0.05)
        first = must_end(lambda: next(batches))
        assert (first or must_end(lambda: next(batches))) == [b"a"]
        assert must_end(lambda: next(batches)) == []
        go_on.set()
        assert must_end(lambda: list(batches)) == [[b"b"]]


def test_a_connection_that_ends_meanwhile_is_no_reason_for_patience() -> None:
    listener, store, go_on = answering(b"$1\r\na\r\n")
    with listener:
        batches = store.get_batches([b"1", b"2"], within(20), patience=15.0)
        assert must_end(lambda: next(batches)) == [b"a"]
        listener.close()
        go_on.set()  # it waits for more requests then, and gets none
        with pytest.raises(StoreUnreachableError, match="closed"):
            must_end(lambda: list(batches), 10)


@pytest.mark.parametrize("rest", [b"*1\r\n", b"$1\r\nxyz", b"-ERR no\r\n", b"$999999999999\r\n"])
def test_what_arrived_before_an_error_is_handed_out_first(rest: bytes) -> None:
    large = b"b" * 300_000
    listener, store, _ = answering(b"$1\r\na\r\n$300000\r\n" + large + b"\r\n" + rest)
    got: list[bytes | None] = []
    with listener, pytest.raises(StoreError, match=r"no$|not asked for|does not fit|announces"):
        must_end(lambda: [got.extend(batch) for batch in store.get_batches([b"1", b"2", b"3"], within())])
    # Whatever is received in one go with malformed bytes is refused with them.
    assert got in ([b"a"], [b"a", large])


def test_an_error_concerns_the_id_after_the_batch(redis_server: Start) -> None:
    server = redis_server()
    server.load([(b"1", b"one"), (b"3", b"three")])
    with server.client() as client:
        client.command("RPUSH", "list", "x")
    store = store_at(server.url)
    batches = store.get_batches([b"1", b"none", b"list", b"3"], within())
    got: list[bytes | None] = []
    with pytest.raises(StoreError, match="WRONGTYPE"):
        must_end(lambda: [got.extend(batch) for batch in batches])
    assert got == [b"one", None]
