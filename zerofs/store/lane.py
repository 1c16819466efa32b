"""The requests of one call that go to one node of a Redis Cluster, pipelined on one connection.

Made, used and closed by `scatter`, in its caller's thread, and by `probe` in one of its own.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Generator
from typing import NamedTuple

from zerofs.errors import StoreError, StoreTimeoutError
from zerofs.store.connection import ANSWER_TIMEOUT, Command, RespConnection
from zerofs.store.resp import Answer
from zerofs.store.server import Answered
from zerofs.store.topology import Node

QUIET = 1.0  # seconds without a byte from a node after which another one that has the same is asked

PROBE_TIMEOUT = 10.0  # seconds

_FAIR_TRIAL = 0.5  # seconds; a shorter one that ends in a timeout says nothing about the node

Outcome = Answer | StoreError


class Target(NamedTuple):
    """Where a request goes."""

    node: Node
    asking: bool = False  # the slot is on its way there: the node has to be told that we know
    replaceable: bool = False  # another node has the same


class Lane:
    """Requests to one target.  Answers are taken in the order in which requests were added."""

    def __init__(self, target: Target, *, is_first: bool) -> None:
        self.target = target
        self._is_first = is_first  # its answers are waited for at once, so that the wait means something
        self._commands: list[Command] = []
        self._connection: RespConnection | None = None  # once the first answer is here
        self._fault: StoreError | None = None  # for which no more answers come
        self._answers: Generator[Answered] | None = None
        self._here: deque[Answer] = deque()  # have come and were not taken yet
        self._began = 0.0

    @property
    def has_answered(self) -> bool:
        return self._connection is not None

    def add(self, command: Command) -> None:
        if self.target.asking:
            self._commands.append((b"ASKING",))
        self._commands.append(command)

    def start(self, deadline: float) -> None:
        """Send the requests."""
        self._began = time.monotonic()
        node = self.target.node
        node.latency.asked()
        quiet = QUIET if self.target.replaceable else ANSWER_TIMEOUT
        try:
            self._answers = node.server.ask(self._commands, deadline, quiet)
        except StoreError as fault:
            self._fail(fault)

    def take(self) -> Outcome:
        """The next answer, or why there is none."""
        if self._fault is not None:
            return self._fault
        try:
            if self.target.asking:
                self._next()
            return self._next()
        except StoreError as fault:
            self._fail(fault)
            return fault

    def is_next_here(self) -> bool:
        if self._fault is not None or self._connection is None:
            return False
        return bool(self._here) or self._connection.has_answer()

    def finish(self) -> None:
        """Every answer was taken: the connection can be used again."""
        if self._fault is None and self._answers is not None:
            with contextlib.suppress(StoreError, StopIteration):
                next(self._answers)

    def close(self) -> None:
        if self._answers is not None:
            self._answers.close()

    def _next(self) -> Answer:
        if not self._here:
            assert self._answers is not None
            answers, connection = next(self._answers)
            self._here.extend(answers)
            if self._connection is None:
                self.target.node.breaker.succeeded()
                if self._is_first:
                    self.target.node.latency.answered(time.monotonic() - self._began)
            self._connection = connection
        return self._here.popleft()

    def _fail(self, fault: StoreError) -> None:
        self._fault = fault
        took = time.monotonic() - self._began
        if not isinstance(fault, StoreTimeoutError) or took >= _FAIR_TRIAL:
            self.target.node.breaker.failed()
            self.target.node.latency.failed(took)


def probe(node: Node, command: Command) -> None:
    """Find out in the background whether a node that others stand in for is back; its breaker is told."""
    threading.Thread(target=_try, args=(node, command), name="zerofs-probe", daemon=True).start()


def _try(node: Node, command: Command) -> None:
    lane = Lane(Target(node, replaceable=True), is_first=True)
    lane.add(command)
    try:
        lane.start(time.monotonic() + PROBE_TIMEOUT)
        lane.take()
        lane.finish()
    finally:
        lane.close()
