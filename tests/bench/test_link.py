"""The emulated link: every byte arrives, is counted, and not before its moment; the clock is the test's."""

import os
import socket
import threading

import pytest

from tests.support.resp import RespClient
from zerofs.bench.line import Conditions
from zerofs.bench.link import Link
from zerofs.bench.linkprocess import LinkProcess
from zerofs.errors import StoreUnreachableError

FAST = Conditions(rtt=0.002, rate=1e9, jitter=0.0005)


@pytest.fixture
def link(redis_server, tmp_path):
    server = redis_server()
    with LinkProcess((server.host, server.port), FAST, tmp_path) as process:
        yield process


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


class Stepped:
    """A link whose clock stands still unless it is told otherwise; it never waits."""

    def __init__(self, listener, conditions):
        self.now = 0.0
        self.link = Link(listener.getsockname(), conditions, clock=lambda: self.now)
        self._always, self._other = os.pipe()
        os.write(self._other, b"x")

    def at(self, moment):
        self.now = moment
        for _ in range(50):  # more than there is to do at one moment
            self.link.step(self._always)


@pytest.fixture
def stepped(listener):
    link = Stepped(listener, Conditions(rtt=0.25, rate=800.0))
    yield link
    link.link.close()


def received(connection):
    connection.setblocking(False)
    try:
        return connection.recv(65536)
    except BlockingIOError:
        return None


def test_bytes_travel_at_the_rate_and_one_delay_later(stepped, listener):
    with socket.create_connection(("127.0.0.1", stepped.link.port)) as client:
        stepped.at(1.0)
        server, _ = listener.accept()
        client.sendall(b"x" * 100)
        stepped.at(1.24)  # the connection is being set up for one round trip
        stepped.at(1.25)
        stepped.at(1.49)
        assert received(server) is None
        stepped.at(1.5)  # its bytes, and half a round trip
        assert received(server) == b"x" * 100
        server.setblocking(True)
        server.sendall(b"y" * 50)
        stepped.at(2.0)
        stepped.at(2.18)
        assert received(client) is None
        stepped.at(2.1875)
        assert received(client) == b"y" * 50
        server.close()


def test_all_connections_share_the_rate(stepped, listener):
    clients = [socket.create_connection(("127.0.0.1", stepped.link.port)) for _ in range(2)]
    stepped.at(0.0)
    servers = [listener.accept()[0] for _ in clients]
    for client in clients:
        client.sendall(b"x" * 500)
    stepped.at(1.0)  # the first fills the line for five eighths of a second
    assert [received(server) for server in servers] == [None, None]
    stepped.at(1.75)
    assert [received(server) for server in servers].count(None) == 1
    stepped.at(2.49)
    assert [received(server) for server in servers] == [None, None]
    stepped.at(2.5)
    assert [received(server) for server in servers].count(b"x" * 500) == 1
    for each in (*clients, *servers):
        each.close()


def test_what_is_read_and_written_is_what_was_meant_and_is_counted(link):
    payload = os.urandom(3 << 20)
    with RespClient(link.address) as client:
        assert client.command("SET", "big", payload) == b"OK"
        assert client.command("GET", "big") == payload
        assert client.command("GET", "none") is None
        assert client.command("GET", "big") == payload
    passed = link.passed()
    assert (passed.connections, passed.requests) == (1, 4)
    assert passed.keys == (b"big".hex(), b"none".hex())
    assert passed.received == len(b"+OK\r\n") + 2 * len(b"$3145728\r\n" + payload + b"\r\n") + len(b"$-1\r\n")
    assert passed.sent > len(payload)
    assert link.passed()[:2] == (0, 0)


def test_many_connections_at_once_get_what_is_theirs(link):
    with RespClient(link.address) as client:
        for number in range(8):
            client.command("SET", f"value-{number}", bytes([number]) * 500_000)
    wrong = []

    def read(number):
        with RespClient(link.address) as client:
            for _ in range(4):
                if client.command("GET", f"value-{number}") != bytes([number]) * 500_000:
                    wrong.append(number)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong
    assert link.passed().requests == 8 + 8 * 4


def test_a_receiver_with_little_room_gets_all_of_it(link):
    payload = os.urandom(2 << 20)
    with RespClient(link.address) as client:
        client.command("SET", "big", payload)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        other.settimeout(20)
        other.connect(link.address)
        other.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n")
        wanted = b"$%d\r\n%s\r\n" % (len(payload), payload)
        got = bytearray()
        while len(got) < len(wanted) and (piece := other.recv(3000)):
            got += piece
    assert got == wanted


def test_half_of_a_connection_may_end_before_the_other(listener, tmp_path):
    with (
        LinkProcess(listener.getsockname(), FAST, tmp_path) as link,
        socket.create_connection(link.address, timeout=20) as client,
    ):
        client.sendall(b"no RESP at all")
        client.shutdown(socket.SHUT_WR)
        server, _ = listener.accept()
        with server, server.makefile("rb") as stream:
            assert stream.read() == b"no RESP at all"
            server.sendall(b"answer")
        with client.makefile("rb") as stream:
            assert stream.read() == b"answer"
        assert link.passed().requests == 0


def test_a_receiver_that_is_gone_does_not_disturb_the_others(link):
    with RespClient(link.address) as client:
        client.command("SET", "big", os.urandom(8 << 20))
        with socket.create_connection(link.address) as other:
            other.sendall(b"*2\r\n$3\r\nGET\r\n$3\r\nbig\r\n")
            other.recv(1)
        assert client.command("STRLEN", "big") == 8 << 20


def test_without_a_server_connections_end(redis_server, tmp_path):
    server = redis_server()
    with LinkProcess((server.host, server.port), FAST, tmp_path) as link:
        server.stop()
        with socket.create_connection(link.address, timeout=20) as client:
            assert client.recv(1) == b""
        assert link.passed().connections == 0


def test_a_link_that_has_ended_says_so(link):
    link.stop()
    with pytest.raises((StoreUnreachableError, ValueError)):
        link.passed()
