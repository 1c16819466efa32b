"""Slots of a Redis Cluster: which one a key lies in, and which servers hold each of them.

Pure functions over what ``CLUSTER SHARDS`` and ``CLUSTER SLOTS`` answer; nothing in it is trusted.
"""

from __future__ import annotations

from binascii import crc_hqx
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from zerofs.store.connection import Nested
from zerofs.store.url import Address

SLOTS = 16384


def slot_of(key: bytes) -> int:
    """The slot of a key: a CRC of it, or of what stands in its first braces unless that is nothing."""
    begin = key.find(b"{")
    if begin >= 0:
        end = key.find(b"}", begin + 1)
        if end > begin + 1:
            key = key[begin + 1 : end]
    return crc_hqx(key, 0) % SLOTS


class Shard(NamedTuple):
    """Servers with the same slots: the one that takes writes, if there is one, and its copies."""

    master: Address | None
    replicas: tuple[Address, ...] = ()


class SlotMap:
    """Which shard holds which slot.  Never changes."""

    def __init__(self, owners: Sequence[Shard | None]) -> None:
        self._owners = owners  # by slot
        self.covered = sum(owner is not None for owner in owners)

    def shard(self, slot: int) -> Shard | None:
        return self._owners[slot]

    def addresses(self) -> list[Address]:
        """Every server, masters first."""
        shards = [shard for shard in dict.fromkeys(self._owners) if shard is not None]
        masters = [shard.master for shard in shards if shard.master is not None]
        return list(dict.fromkeys([*masters, *(each for shard in shards for each in shard.replicas)]))

    def moved(self, slot: int, address: Address) -> SlotMap:
        """The map after a slot has gone to `address`, with the replicas there as far as they are known."""
        owners = list(self._owners)
        known = (each for each in self._owners if each is not None and each.master == address)
        owners[slot] = next(known, Shard(address))
        return SlotMap(owners)


def map_of_slots(answer: Nested, asked: str) -> SlotMap:
    """Read ``CLUSTER SLOTS`` of the server at host `asked`.  Raises ValueError."""
    owners: list[Shard | None] = [None] * SLOTS
    for entry in _list(answer):
        first, last, *servers = _list(entry)
        if not servers:
            raise ValueError("a range of slots without a server")
        master, *replicas = [_server_of_slots(each, asked) for each in servers]
        _own(owners, first, last, Shard(master, tuple(replicas)))
    return SlotMap(owners)


def map_of_shards(answer: Nested, asked: str, *, tls: bool = False) -> SlotMap:
    """Read ``CLUSTER SHARDS`` of the server at host `asked`; `tls`: the ports for that.  Raises ValueError.

    (``CLUSTER SLOTS`` and redirections tell the port for whoever asks.)
    """
    owners: list[Shard | None] = [None] * SLOTS
    port = b"tls-port" if tls else b"port"
    for entry in _list(answer):
        fields = _fields(entry)
        servers = [_fields(each) for each in _list(fields.get(b"nodes"))]
        # One that is down is still listed: it counts where there is no other.  ("loading" says only that the
        # server that was asked has not heard of its progress yet.)
        usable = [each for each in servers if each.get(b"health") in (b"online", b"loading")] or servers
        masters = [_address(each, asked, port) for each in usable if each.get(b"role") == b"master"]
        replicas = [_address(each, asked, port) for each in usable if each.get(b"role") != b"master"]
        shard = Shard(masters[0] if masters else None, tuple(replicas))
        ends = _list(fields.get(b"slots"))
        for first, last in zip(ends[::2], ends[1::2], strict=True):
            _own(owners, first, last, shard)
    return SlotMap(owners)


def address_of(text: bytes, asked: str) -> Address:
    """The ``host:port`` of a redirection; without a host it is the one that was asked.  Raises ValueError."""
    host, _, port = text.rpartition(b":")
    return _host(host, asked), _port(int(port))


def _own(owners: list[Shard | None], first: Nested, last: Nested, shard: Shard) -> None:
    if not (isinstance(first, int) and isinstance(last, int) and 0 <= first <= last < SLOTS):
        raise ValueError("a range of slots that there is not")
    owners[first : last + 1] = [shard] * (last + 1 - first)


def _server_of_slots(entry: Nested, asked: str) -> Address:
    host, port, *more = _list(entry)
    if host in (None, b"", b"?") and len(more) > 1:
        host = _fields(more[1]).get(b"ip", host)
    return _host(host, asked), _port(port)


def _address(server: dict[bytes, Nested], asked: str, port: bytes) -> Address:
    host = server.get(b"endpoint")
    if host in (None, b"", b"?"):
        host = server.get(b"ip")
    return _host(host, asked), _port(server.get(port))


def _host(name: Nested, asked: str) -> str:
    """A name or an address; a server that does not know its own is where it was asked."""
    if name in (None, b"", b"?"):
        return asked
    if (
        not isinstance(name, bytes)
        or not name.isascii()
        or not name.decode().isprintable()
        or len(name) > 255
    ):
        raise ValueError("a host that is no name")
    return name.decode().strip("[]").lower()


def _port(number: Nested) -> int:
    if not isinstance(number, int) or not 0 < number < 65536:
        raise ValueError("a port that is none")
    return number


def _list(value: Nested) -> list[Nested]:
    if not isinstance(value, list):
        raise ValueError("a list is missing")
    return value


def _fields(value: Nested) -> dict[bytes, Nested]:
    """A list of names and values in turn."""
    return dict(_named(_list(value)))


def _named(values: list[Nested]) -> Iterator[tuple[bytes, Nested]]:
    for name, value in list(pairwise(values))[::2]:
        if not isinstance(name, bytes):
            raise ValueError("a name is missing")
        yield name, value
