"""One call of a Redis Cluster: requests sent to every node that holds their slots, answers in their order.

A round sends each request to one node, all nodes at once, and takes the answers in order.  What was redirected,
or went to a node that is gone, goes elsewhere in the next round, while what comes after it waits in memory.
Runs in its caller's thread, but for trying whether a node is back; holds no lock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

from zerofs.errors import StoreError, StoreRefusedError, StoreUnreachableError
from zerofs.store.base import IsNextHere
from zerofs.store.connection import Command
from zerofs.store.lane import Lane, Outcome, Target, probe
from zerofs.store.latency import fastest_first
from zerofs.store.resp import BULK, ERROR, Answer, answer_error
from zerofs.store.slots import Shard, SlotMap, address_of, slot_of
from zerofs.store.topology import Node, Topology
from zerofs.store.url import StoreUrl

MAX_REDIRECTIONS = 5  # of one request

_NULL = Answer(BULK, None)


class _Want:
    """One request until it is settled."""

    __slots__ = ("command", "fault", "position", "redirect", "redirections", "shard", "slot", "tried")

    def __init__(self, position: int, command: Command) -> None:
        self.position = position
        self.command = command
        self.slot = slot_of(bytes(command[1]))
        self.shard: Shard | None = None  # that was asked
        self.tried: list[Node] = []  # those of it that were no help
        self.redirect: Target | None = None
        self.redirections = 0
        self.fault: StoreError | None = None  # the last one


class Scatter:
    """Asks the cluster at `url` for the answers to `commands`, each with its key in second place.

    `reading`: whether a replica may be asked; what it lacks is asked of its master.
    """

    def __init__(
        self,
        url: StoreUrl,
        topology: Topology,
        commands: Sequence[Command],
        deadline: float,
        *,
        reading: bool,
    ) -> None:
        self._url = url
        self._topology = topology
        self._deadline = deadline
        self._reading = reading
        self._wants = [_Want(position, command) for position, command in enumerate(commands)]
        self._ready: dict[int, Outcome] = {}  # what waits for what comes before it
        self._handed = 0
        self._lanes: dict[int, Lane] = {}  # of the round, by position
        self._has_answered = False  # any node
        self._has_renewed = False

    def answers(self) -> Iterator[tuple[Outcome, IsNextHere]]:
        """The answer to each command in order, or the error that concerns it alone.

        Raises StoreRefusedError, and StoreUnreachableError where no node answers.
        """
        todo = self._wants
        while todo:
            unsettled: list[_Want] = []
            for want, lane in self._round(todo):
                settled = None
                if lane is not None:
                    settled = self._settle(want, lane.target.node, lane.take())
                    self._has_answered |= lane.has_answered
                if settled is None:
                    unsettled.append(want)
                else:
                    self._ready[want.position] = settled
                    yield from self._hand_out()
            todo = self._worth_asking(unsettled)
            yield from self._hand_out()

    def _hand_out(self) -> Iterator[tuple[Outcome, IsNextHere]]:
        while self._handed in self._ready:
            self._handed += 1
            yield self._ready.pop(self._handed - 1), self._is_next_here

    def _is_next_here(self) -> bool:
        lane = self._lanes.get(self._handed)
        return self._handed in self._ready or (lane is not None and lane.is_next_here())

    def _round(self, wants: Sequence[_Want]) -> Iterator[tuple[_Want, Lane | None]]:
        """Ask for each of `wants` once; in order, the lane on which its answer comes, if anybody was asked."""
        lanes = self._assigned(wants)
        try:
            for lane in lanes.values():
                lane.start(self._deadline)
            for want in wants:
                yield want, self._lanes.pop(want.position, None)
            for lane in lanes.values():
                lane.finish()
        finally:
            for lane in lanes.values():
                lane.close()

    # -- whom to ask -----------------------------------------------------------------------------

    def _assigned(self, wants: Sequence[_Want]) -> dict[Target, Lane]:
        """A lane to everybody who is asked for any of `wants`."""
        lanes: dict[Target, Lane] = {}
        usual: dict[Shard | None, Target | None] = {}  # who is asked where nobody was before
        slots = self._topology.map(self._deadline)
        self._lanes.clear()
        for want in wants:
            shard = want.shard = slots.shard(want.slot)
            target = want.redirect
            if target is None and want.tried:
                target = self._target(shard, want.tried, want.command)
            elif target is None:
                if shard not in usual:
                    usual[shard] = self._target(shard, (), want.command)
                target = usual[shard]
            if target is not None:
                lane = lanes.get(target)
                if lane is None:
                    lane = lanes[target] = Lane(target, is_first=not lanes)
                lane.add(want.command)
                self._lanes[want.position] = lane
        return lanes

    def _target(self, shard: Shard | None, tried: Sequence[Node], command: Command) -> Target | None:
        """Whom to ask for `command`.  Whoever failed lately is tried beside it, by nobody who waits."""
        nodes = self._holders(shard)
        left = [node for node in nodes if node not in tried]
        if not left:
            return None
        left = fastest_first(left, lambda node: node.latency)
        left.sort(key=lambda node: node.breaker.is_suspect)
        for node in left[1:]:
            if node.breaker.claim_probe():
                probe(node, command)
        return Target(left[0], replaceable=len(nodes) > 1)

    def _holders(self, shard: Shard | None) -> list[Node]:
        """The nodes that may be asked, the master first."""
        if shard is None:
            return []
        nodes = [self._topology.node(shard.master)] if shard.master is not None else []
        if self._reading:
            nodes += [self._topology.node(each, replica=True) for each in shard.replicas]
        return nodes

    def _worth_asking(self, wants: list[_Want]) -> list[_Want]:
        """Those for which there is somebody left to ask, in the map or in a newer one; the others are settled."""
        if not wants:
            return []
        slots = self._topology.map(self._deadline)
        lost = [want for want in wants if not self._has_more(want, slots)]
        newer = self._renew(slots) if lost else slots
        left: list[_Want] = []
        for want in wants:
            if want in lost and newer.shard(want.slot) not in (None, want.shard):
                want.tried.clear()
            if self._has_more(want, newer) and time.monotonic() < self._deadline:
                left.append(want)
            else:
                self._ready[want.position] = want.fault or StoreUnreachableError(
                    f"{self._url.display}: no node holds slot {want.slot}"
                )
        return left

    def _has_more(self, want: _Want, slots: SlotMap) -> bool:
        if want.redirect is not None:
            return want.redirections <= MAX_REDIRECTIONS
        return any(node not in want.tried for node in self._holders(slots.shard(want.slot)))

    def _renew(self, slots: SlotMap) -> SlotMap:
        """A newer map, once a call; where no node answers at all that is the end of it."""
        if self._has_renewed:
            return slots
        self._has_renewed = True
        try:
            return self._topology.renew(slots, self._deadline)
        except StoreUnreachableError:
            if not self._has_answered:
                raise
            return slots

    # -- what came of it -------------------------------------------------------------------------

    def _settle(self, want: _Want, node: Node, outcome: Outcome) -> Outcome | None:
        """What is to be handed out, or None where somebody else is to be asked.  Raises StoreRefusedError."""
        want.redirect = None
        if isinstance(outcome, Answer):
            if outcome.kind != ERROR or not isinstance(outcome.value, bytes):
                return self._believed(want, node, outcome)
            if outcome.value.startswith((b"MOVED ", b"ASK ")):
                self._redirect(want, node, outcome.value)
                return None
            outcome = answer_error(node.display, outcome.value, self._url.secrets)
        fault = type(outcome)(f"{self._url.display}: {outcome}", hint=outcome.hint)
        if isinstance(fault, StoreRefusedError):
            raise fault
        if not isinstance(fault, StoreUnreachableError):
            return fault
        self._topology.mislead()
        want.fault = fault
        want.tried.append(node)
        return None

    def _believed(self, want: _Want, node: Node, answer: Answer) -> Answer | None:
        """A replica may not have yet what its master has."""
        if not node.replica or answer != _NULL:
            return answer
        want.tried.append(node)
        want.fault = want.fault or StoreUnreachableError(
            f"{self._url.display}: {node.display} lacks it, and nobody else can be asked"
        )
        return None

    def _redirect(self, want: _Want, node: Node, line: bytes) -> None:
        want.redirections += 1
        want.tried.append(node)
        try:
            address = address_of(line.rpartition(b" ")[2], node.host)
        except ValueError:
            want.fault = StoreUnreachableError(f"{self._url.display}: {node.display}: malformed redirection")
            return
        want.fault = StoreUnreachableError(f"{self._url.display}: {node.display}: redirected too often")
        asking = line.startswith(b"ASK")
        if not asking:
            self._topology.mislead(want.slot, address)
        want.redirect = Target(self._topology.node(address), asking=asking)
