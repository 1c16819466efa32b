"""The servers of a Redis Cluster and who holds which slot, asked of whichever of them answers.

Place: below `cluster`, one per store.  Thread-safe: `changed` guards the fields of `_State`.  One thread at a
time asks for a new map, without that lock; those who need it too wait for what it finds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from zerofs.errors import (
    StoreError,
    StoreProtocolError,
    StoreRefusedError,
    StoreTimeoutError,
    StoreUnreachableError,
)
from zerofs.store.breaker import Breaker
from zerofs.store.latency import Latency
from zerofs.store.process import PerProcess
from zerofs.store.server import Server
from zerofs.store.slots import SLOTS, SlotMap, map_of_shards, map_of_slots
from zerofs.store.spares import Spares
from zerofs.store.url import Address, StoreUrl

INQUIRY_TIMEOUT = 2.0  # seconds that one server may take to say who holds what
MAP_AGE = 1.0  # seconds; a map that turned out wrong in places is not asked for more often


class Node:
    """One server of the cluster, to be written to and read from, or as a `replica` only to be read from."""

    def __init__(self, url: StoreUrl, spares: Spares, *, replica: bool) -> None:
        self.display = url.display
        self.host = url.host
        self.replica = replica
        self.breaker = Breaker()
        self.latency = Latency()
        # A master must not be told: one that became a replica is to say so, for what it lacks may be there.
        self.server = Server(url, spares, [(b"READONLY",)] if replica else [])


class _State:
    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.map: SlotMap | None = None
        self.asked_at = float("-inf")  # monotonic time of the last successful inquiry
        self.wrong = False  # the map misled somebody
        self.asking = False  # a thread is about to bring a new one
        self.inquiries = 0  # that have ended
        self.fault: StoreError | None = None  # of the last one
        self.nodes: dict[tuple[Address, bool], Node] = {}


class Topology:
    """Knows the cluster at `url`."""

    def __init__(self, url: StoreUrl, spares: Spares) -> None:
        self._url = url
        self._spares = spares
        self._state = PerProcess(_State)

    def map(self, deadline: float) -> SlotMap:
        """The map, renewed where it misled somebody.  Raises the StoreError for which there is none."""
        state = self._state.get()
        with state.changed:
            known = state.map
            stale = state.wrong and not state.asking and time.monotonic() - state.asked_at >= MAP_AGE
        if known is None or stale:
            try:
                return self.renew(known, deadline)
            except StoreError:
                if known is None:
                    raise
        assert known is not None
        return known

    def renew(self, known: SlotMap | None, deadline: float) -> SlotMap:
        """A map other than `known`, asked for unless another thread has it by now.  Raises StoreError."""
        state = self._state.get()
        with state.changed:
            before = state.inquiries
            while state.asking and state.inquiries == before:
                if not state.changed.wait(max(0.0, deadline - time.monotonic())):
                    raise StoreTimeoutError(f"{self._url.display}: nobody said in time who holds what")
            if state.map is not None and state.map is not known:
                return state.map
            if state.inquiries != before and state.fault is not None:
                raise type(state.fault)(str(state.fault), hint=state.fault.hint)
            state.asking = True
        return self._inquire(state, deadline)

    def mislead(self, slot: int | None = None, address: Address | None = None) -> None:
        """The map was wrong: about `slot`, which is at `address`, or in a way that is not known."""
        state = self._state.get()
        with state.changed:
            state.wrong = True
            if state.map is not None and slot is not None and address is not None:
                state.map = state.map.moved(slot, address)

    def node(self, address: Address, *, replica: bool = False) -> Node:
        state = self._state.get()
        with state.changed:
            node = state.nodes.get((address, replica))
            if node is None:
                node = Node(self._url.node(address), self._spares, replica=replica)
                state.nodes[address, replica] = node
            return node

    def close(self) -> None:
        """Drop the idle connections."""
        state = self._state.get()
        with state.changed:
            nodes = list(state.nodes.values())
        for node in nodes:
            node.server.close()

    def _inquire(self, state: _State, deadline: float) -> SlotMap:
        """Ask for a map, and say to those who wait what came of it."""
        found: SlotMap | None = None
        fault: StoreError | None = None
        try:
            found = self._ask_anybody(state.map, deadline)
        except StoreError as caught:
            fault = caught
        finally:
            with state.changed:
                state.asking = False
                state.inquiries += 1
                state.fault = fault
                if found is not None:
                    state.map = found
                    state.wrong = False
                    state.asked_at = time.monotonic()
                    gone = self._forget_others(state, found)
                state.changed.notify_all()
        if found is None:
            assert fault is not None
            raise fault
        for node in gone:
            node.server.close()
        return found

    def _ask_anybody(self, known: SlotMap | None, deadline: float) -> SlotMap:
        addresses = dict.fromkeys([*(known.addresses() if known is not None else ()), *self._url.seeds])
        nodes = sorted(map(self.node, addresses), key=lambda node: node.breaker.is_suspect)
        faults: list[StoreError] = []
        for node in nodes:
            try:
                return self._ask(node, min(deadline, time.monotonic() + INQUIRY_TIMEOUT))
            except StoreUnreachableError as fault:
                node.breaker.failed()
                faults.append(fault)
            except StoreError as fault:
                faults.append(fault)
        raise self._nobody(faults)

    def _ask(self, node: Node, deadline: float) -> SlotMap:
        try:
            told = node.server.inquire((b"CLUSTER", b"SHARDS"), deadline)
            found = map_of_shards(told, node.host, tls=self._url.scheme == "rediss-cluster")
        except (StoreUnreachableError, StoreRefusedError):
            raise
        except (StoreError, ValueError):
            found = None  # older than Redis 7
        if found is None or found.covered < SLOTS:
            try:
                other = map_of_slots(node.server.inquire((b"CLUSTER", b"SLOTS"), deadline), node.host)
            except ValueError as fault:
                raise StoreProtocolError(f"{node.display}: malformed map of slots: {fault}") from fault
            found = other if found is None or other.covered > found.covered else found
        if not found.covered:
            raise StoreUnreachableError(f"{node.display}: belongs to no cluster that holds anything")
        return found

    def _nobody(self, faults: Iterable[StoreError]) -> StoreError:
        """One error for all nodes: what the user has to mend before what may pass."""
        reasons = "; ".join(str(fault) for fault in faults)
        for kind in (StoreRefusedError, StoreTimeoutError, StoreUnreachableError):
            for fault in faults:
                if isinstance(fault, kind):
                    return type(fault)(f"{self._url.display}: {reasons}", hint=fault.hint)
        return StoreRefusedError(
            f"{self._url.display}: {reasons}",
            hint=f"a single server that is no cluster is named {self._url.node(('', 0)).scheme}://",
        )

    def _forget_others(self, state: _State, found: SlotMap) -> list[Node]:
        """Drop the servers that are neither in the map nor in the URL.  Under the lock."""
        known = {*found.addresses(), *self._url.seeds}
        gone = [key for key in state.nodes if key[0] not in known]
        return [state.nodes.pop(key) for key in gone]
