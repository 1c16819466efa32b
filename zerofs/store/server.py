"""One RESP server: connections that are kept, and requests pipelined on one of them.

Each call takes a connection from the pool and gives it back when every request on it has been answered;
one with an unanswered request is closed.  Place: below the stores that speak RESP.  Thread-safe.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence

from zerofs.errors import StoreProtocolError, StoreTimeoutError, StoreUnreachableError
from zerofs.store.connection import ANSWER_TIMEOUT, Command, Nested, RespConnection
from zerofs.store.pool import ConnectionPool
from zerofs.store.resp import Answer
from zerofs.store.spares import Spares
from zerofs.store.url import StoreUrl

Answered = tuple[list[Answer], RespConnection]


class Server:
    """The server at `url`.  `greeting` is sent on each connection once it is logged in."""

    def __init__(self, url: StoreUrl, spares: Spares, greeting: Sequence[Command] = ()) -> None:
        self._pool = ConnectionPool(lambda deadline: RespConnection.open(url, deadline, spares, greeting))

    def ask(
        self, commands: Sequence[Command], deadline: float, quiet: float = ANSWER_TIMEOUT
    ) -> Generator[Answered]:
        """The answers in order, those that came together at a time, and where they came from.

        The first requests are on their way when this returns.

        `quiet`: seconds after which a server that says nothing at all is given up.  A kept connection that
        turns out to be dead is replaced once, unseen.  Run it to its end, or close it.
        """
        return self.begin(commands, deadline, quiet)[0]

    def begin(
        self, commands: Sequence[Command], deadline: float, quiet: float = ANSWER_TIMEOUT
    ) -> tuple[Generator[Answered], RespConnection]:
        """The same, and the connection on which they are on their way."""
        answers = self._ask(commands, deadline, quiet)
        return answers, next(answers)[1]

    def inquire(self, command: Command, deadline: float) -> Nested:
        """The answer to one command, arrays as lists; see `RespConnection.inquire`."""
        connection, _ = self._pool.take(deadline)
        try:
            answer = connection.inquire(command, deadline)
        except BaseException:
            connection.close()
            raise
        self._pool.give(connection)
        return answer

    def has_idle(self) -> bool:
        """Whether a connection is there already."""
        return self._pool.has_idle()

    def close(self) -> None:
        """Drop the idle connections."""
        self._pool.clear()

    def _ask(self, commands: Sequence[Command], deadline: float, quiet: float) -> Generator[Answered]:
        """First of all says, by no answers, that the requests are on their way."""
        answered = 0
        begun = False
        while True:
            connection, used_before = self._pool.take(min(deadline, time.monotonic() + quiet))
            unanswered = True
            try:
                answers = connection.exchange(commands[answered:], deadline, quiet)
                if not begun:
                    begun = True
                    yield [], connection
                for batch in answers:
                    answered += len(batch)
                    yield batch, connection
                unanswered = False
                return
            except (StoreTimeoutError, StoreProtocolError):
                raise
            except StoreUnreachableError:
                if not used_before:
                    raise
                self._pool.clear()  # the others were made no later and are as dead
            finally:
                if unanswered:
                    connection.close()
                else:
                    self._pool.give(connection)
