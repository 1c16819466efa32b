"""The stores of a soak: two replicas, each a redis-server behind a proxy, and a third server that lies."""

from __future__ import annotations

import time
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from zerofs.bench import host
from zerofs.bench.faultproxy import Fault, FaultProxy
from zerofs.bench.redisserver import RedisProcess
from zerofs.bench.subjects import program
from zerofs.errors import StoreError
from zerofs.store.base import open_store
from zerofs.store.connection import Nested, RespConnection
from zerofs.store.url import parse_store_url

_LOADING = 20.0  # seconds


class Replica:
    """A server that has every chunk on its disk, and the proxy through which it is asked."""

    def __init__(self, directory: Path) -> None:
        self.server = RedisProcess(directory)
        self.proxy = FaultProxy((self.server.host, self.server.port))

    @property
    def url(self) -> str:
        return f"redis://{self.proxy.host}:{self.proxy.port}"

    def keep(self) -> None:
        """Have it write what it holds, so that it is there after a restart."""
        ask(self.server, b"SAVE")

    def spoil(self, fault: Fault) -> None:
        self.proxy.fault = fault

    def restart(self) -> None:
        """Start the server again, unless somebody has; it has what it kept."""
        if self.server.process.poll() is not None:
            self.server.start()
        ask(self.server, b"PING")

    def lie(self, upstream: RedisProcess) -> None:
        """Let another server answer."""
        self.proxy.upstream = (upstream.host, upstream.port)
        self.proxy.break_connections()

    def heal(self) -> None:
        """Everything as it should be; what a fault holds up is broken off, as time would have done."""
        spoiled = self.proxy.fault is not None or self.proxy.upstream != (self.server.host, self.server.port)
        self.proxy.fault = None
        self.proxy.upstream = (self.server.host, self.server.port)
        if spoiled:
            self.proxy.break_connections()

    def close(self) -> None:
        self.proxy.close()
        self.server.stop()


class Stores:
    """The replicas, filled with the chunks of the tree `source`, its flist, and the liar.  Leaving it ends them.

    The flist `twin` has every second file with another time of change, which nobody compares: laid over the
    first one it replaces these files, and everything looks as before.
    """

    def __init__(self, workdir: Path, source: Path, replicas: int = 2) -> None:
        self.source = source
        self.flist, self.twin = workdir / "tree.flist", workdir / "twin.flist"
        self.router = workdir / "router.yaml"
        with ExitStack() as stack:
            self.replicas = [Replica(workdir / f"replica-{number}") for number in range(replicas)]
            for replica in self.replicas:
                stack.callback(replica.close)
            self.liar = stack.enter_context(RedisProcess(workdir / "liar"))
            to = [word for each in self.replicas for word in ("--store", each.server.url)]
            pack = (program("zerofs") or "zerofs", "pack", "--no-router", *to, source)
            host.command(*pack, self.flist)
            _change(source)
            host.command(*pack, self.twin)
            for replica in self.replicas:
                replica.keep()
            _mislead(self.replicas[0].server, self.liar)
            rules = "".join(f"    00:FF: {each.url}\n" for each in self.replicas)
            self.router.write_text(f"pools:\n  all:\n{rules}lookup: [all]\n")
            self._closing = stack.pop_all()

    def heal(self) -> None:
        """Everything as it should be, stopped servers too."""
        for replica in self.replicas:
            replica.restart()
            replica.heal()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()


def _change(source: Path) -> None:
    """Give every second file another time of change; flists keep whole seconds."""
    files = [path for path in sorted(source.rglob("*")) if path.is_file() and not path.is_symlink()]
    newest = max(int(path.stat().st_ctime) for path in files)
    while int(time.time()) <= newest:
        time.sleep(0.05)
    for path in files[::2]:
        path.chmod(path.stat().st_mode & 0o7777)


def ask(server: RedisProcess, *words: bytes) -> Nested:
    """The answer to one command; waits while the server loads its file."""
    deadline = time.monotonic() + _LOADING
    while True:
        connection = RespConnection.open(parse_store_url(server.url), deadline)
        try:
            return connection.inquire(words, deadline)
        except StoreError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        finally:
            connection.close()


def _mislead(server: RedisProcess, liar: RedisProcess) -> None:
    """Give `liar` every id that `server` has, each with the payload of another."""
    found = ask(server, b"KEYS", b"*")
    ids = [each for each in found if isinstance(each, bytes)] if isinstance(found, list) else []
    deadline = time.monotonic() + _LOADING
    honest, other = open_store(parse_store_url(server.url)), open_store(parse_store_url(liar.url))
    try:
        payloads = [bytes(payload or b"") for payload in honest.get_many(ids, deadline)]
        other.put_many(list(zip(ids, [*payloads[1:], *payloads[:1]], strict=True)), deadline)
    finally:
        honest.close()
        other.close()
