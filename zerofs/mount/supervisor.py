"""The process that a supervised mount belongs to: it holds what must outlive a server, and sees to it that one serves.

Role: starts the serving process (`server`), keeps what that hands over (`holding`) and, when that process dies or is
to be upgraded, starts another one that takes it up.  It answers no request, opens no cache and knows no store: what it
does not do cannot fail.  Signals are passed on to the server.

An upgrade: the successor is started and prepares everything; then the one that serves stops taking requests and waits;
the successor begins; only when it says that it serves, the predecessor is let go, and where it fails that one goes on.

One thread, which sleeps in `poll`.  No locks.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from zerofs.errors import RelayedError, TakeoverError, ZerofsError
from zerofs.mount import controlplace, systemd
from zerofs.mount.deaths import Deaths
from zerofs.mount.holding import Holding, take_up
from zerofs.mount.messages import Message
from zerofs.mount.options import MountOptions
from zerofs.mount.server import SIGNALS, Server
from zerofs.mount.upgrading import Askers

log = logging.getLogger(__name__)

_PREPARED_SECONDS, _READY_SECONDS = 120.0, 20.0  # that a successor may take for either step


def supervise(options: MountOptions, arguments: Sequence[str], here: Path, ready: Callable[[], None]) -> None:
    """Have `options`, which `arguments` ask for, mounted and served until the mount ends; `ready`: it can be used.

    `here`: the directory that `arguments` are relative to.  Raises ZerofsError where the mount cannot be made, or
    has to be given up; nothing is left of it then.
    """
    holding = take_up(options, arguments, here)
    with contextlib.ExitStack() as stack:
        _Supervisor(arguments, here, holding, ready, stack).run()


class _Supervisor:
    def __init__(
        self,
        arguments: Sequence[str],
        here: Path,
        holding: Holding,
        ready: Callable[[], None],
        stack: contextlib.ExitStack,
    ) -> None:
        self._arguments = arguments
        self._here = here
        self._holding = holding
        self._ready: Callable[[], None] | None = ready  # None once it was called
        self._serving: Server | None = None
        self._next: Server | None = None  # that is to take over
        self._gone: list[Server] = []  # that were let go
        self._deaths = Deaths()
        self._again_at: float | None = None  # when another server is started, where none is
        self._ending = False  # a server has begun to take the mount down
        self._asked_early = False  # for an upgrade, while the successor of a dead server was starting
        self._stopped = False  # by SIGTERM or SIGINT
        self._waiting: list[int] = []  # signals for who serves when the upgrade is over
        self._poll = select.poll()
        self._on: dict[int, Callable[[], None]] = {}
        self._take_signals(stack)
        self._control = _place(controlplace.STATS, holding.source, stack)
        self._askers = Askers(
            _place(controlplace.UPGRADE, holding.source, stack), self._add, self._remove, self._upgrade
        )

    def run(self) -> None:
        try:
            self._serving = self._start()
        except OSError as error:
            raise TakeoverError(f"cannot start a server: {error.strerror}") from error
        while self._serving is not None or self._again_at is not None:
            for fd, _ in self._poll.poll(self._patience()):
                if fd in self._on:
                    self._on[fd]()
            self._end_overdue()
            if self._again_at is not None and self._again_at <= time.monotonic():
                self._start_again()
        self._holding.withdraw()
        for server in self._gone:  # it saves what it has recorded, and ends by itself
            server.wait()

    # -- descriptors and signals -----------------------------------------------------------

    def _add(self, fd: int, act: Callable[[], None]) -> None:
        self._on[fd] = act
        self._poll.register(fd, select.POLLIN)

    def _remove(self, fd: int) -> None:
        if self._on.pop(fd, None) is not None:
            self._poll.unregister(fd)

    def _take_signals(self, stack: contextlib.ExitStack) -> None:
        wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        stack.callback(lambda: [signal.signal(number, signal.SIG_IGN) for number in SIGNALS])

        def noted() -> None:
            for number in os.read(wake, 256):
                if number in SIGNALS:
                    self._pass_on(number)

        self._add(wake, noted)

    def _pass_on(self, number: int) -> None:
        if self._next is not None or (number == signal.SIGHUP and not self._is_served):
            self._waiting.append(number)  # nobody can tell who will serve
            return
        if number != signal.SIGHUP:
            self._stopped = True
            systemd.tell("STOPPING=1")
        if self._serving is not None:
            self._serving.kill(number)
        elif self._again_at is not None:
            self._again_at = time.monotonic()  # a server is needed to take the mount down

    @property
    def _is_served(self) -> bool:
        """Whether there is a server, and it does not have to take over yet."""
        serving = self._serving
        return serving is not None and (serving.ready_at is not None or not serving.succeeds)

    def _pass_on_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for number in waiting:
            self._pass_on(number)

    # -- servers ---------------------------------------------------------------------------

    def _start(self) -> Server:
        """Start a server with all that is held.  Raises OSError."""
        holding = self._holding
        ending = (self._stopped or self._ending) and bool(holding.files)
        if ending:
            holding.withdraw()
        files = dict(holding.files)
        if self._control is not None:
            files["control"] = self._control.socket.fileno()
        server = Server(
            self._arguments,
            files,
            here=os.fspath(self._here),
            process=holding.source,
            takeovers=holding.takeovers + bool(holding.files),
            ending=ending,
            deposited=holding.deposit is not None,
        )
        holding.add_server(server.end)
        if holding.files:
            server.succeeds = True
            server.deadline = time.monotonic() + _PREPARED_SECONDS
        self._add(server.connection.fileno(), lambda: self._hear(server))
        self._add(server.end, lambda: self._died(server))
        return server

    def _patience(self) -> float | None:
        """Milliseconds until somebody is overdue, or to be started."""
        servers = [server.deadline for server in (self._serving, self._next) if server is not None]
        times = [moment for moment in (*servers, self._again_at) if moment is not None]
        return max(0.0, min(times) - time.monotonic()) * 1000 if times else None

    def _end_overdue(self) -> None:
        for server in (self._serving, self._next):
            if server is not None and server.deadline is not None and server.deadline <= time.monotonic():
                log.warning("process %d takes too long to take over", server.process)
                server.deadline = None
                server.failure = server.failure or ("it took too long to take over", TakeoverError.exit_code)
                server.kill()

    def _hear(self, server: Server) -> None:
        for message in server.hear():
            if message is None:
                self._remove(server.connection.fileno())
            else:
                self._heard(server, message)

    def _heard(self, server: Server, message: Message) -> None:
        match message.say:
            case "state":
                self._holding.keep(message.files, message.fields)
                if server is self._serving and self._next is not None:
                    self._begin_anew(self._next)
            case "prepared":
                server.prepared = True
                self._is_prepared(server)
            case "retired":
                self._has_retired(server, drained=message.fields["drained"])
            case "ready":
                self._is_ready(server)
            case "failed":
                server.failure = message.fields["message"], message.fields["code"]
            case "ending":
                self._ending = True
                systemd.tell("STOPPING=1", "STATUS=unmounting")
                self._holding.withdraw()
            case "ended":
                server.ended = True

    def _is_prepared(self, server: Server) -> None:
        if server is self._serving:  # its predecessor is dead
            self._let_begin(server)
        elif server is self._next and self._serving is not None and not self._serving.retiring:
            self._serving.retiring = True
            self._serving.tell("retire")

    def _let_begin(self, server: Server) -> None:
        server.deadline = time.monotonic() + _READY_SECONDS
        server.tell("go")

    def _has_retired(self, server: Server, *, drained: bool) -> None:
        if server is not self._serving or self._next is None or not self._next.prepared:
            server.retiring = False
            server.tell("resume")
        elif drained:
            self._let_begin(self._next)
        else:
            self._next.failure = (
                "reads wait for a store, and this kernel cannot be asked to send them again: try again later",
                TakeoverError.exit_code,
            )
            self._next.kill()

    def _is_ready(self, server: Server) -> None:
        server.ready_at, server.deadline = time.monotonic(), None
        if self._ready is not None:
            self._ready()
            self._ready = None
        place = str(self._holding.target).replace("\n", "?")
        systemd.tell(f"STATUS={place} is served by process {server.process}")
        if not server.succeeds:
            return
        self._holding.count_takeover()
        if server is self._next:
            assert self._serving is not None
            if not self._serving.is_quick:
                self._deaths.begin_anew()
            self._serving.tell("leave")
            self._gone.append(self._serving)
            self._serving, self._next = server, None
        log.info("process %d has taken over", server.process)
        if not self._begin_early_upgrade():
            self._askers.answer({"process": server.process, "takeovers": self._holding.takeovers})
        self._pass_on_waiting()

    # -- deaths ----------------------------------------------------------------------------

    def _died(self, server: Server) -> None:
        self._hear(server)  # its last words
        self._remove(server.connection.fileno())
        self._remove(server.end)
        self._holding.remove_server(server.end)
        how = server.wait()
        if server in self._gone:
            self._gone.remove(server)
        elif server is self._next:
            self._next = None
            self._has_failed(*(server.failure or (f"the new process {how} before it could take over", 5)))
        elif server.ended:
            self._serving = None
        elif not self._holding.files:
            self._fail(server, how)
        else:
            self._replace(server, how)

    def _has_failed(self, message: str, code: int) -> None:
        """A successor is no more; the one that serves goes on."""
        self._askers.answer({"error": message, "code": code})
        log.warning("the mount is served by process %d as before: %s", self._alive().process, message)
        if self._alive().retiring:
            self._alive().retiring = False
            self._alive().tell("resume")
        self._pass_on_waiting()

    def _alive(self) -> Server:
        assert self._serving is not None
        return self._serving

    def _fail(self, server: Server, how: str) -> None:
        """There is no mount yet, and there will be none."""
        self._serving = None
        if server.failure is not None:
            raise RelayedError(*server.failure)
        if self._stopped and how.endswith(" 0"):
            return  # interrupted before there was a mount
        self._clear()
        raise RelayedError(f"the serving process {how} before the mount could be used", ZerofsError.exit_code)

    def _replace(self, server: Server, how: str) -> None:
        """Have another process serve, unless that has proved to be in vain."""
        why = how if server.failure is None else f"{how}: {server.failure[0]}"
        did = "served" if server.ready_at is not None else "was to serve"
        log.warning("process %d, which %s the mount, %s", server.process, did, why)
        self._deaths.add(quick=server.is_quick, killed=server.was_killed)
        if not self._holding.resends:
            self._give_up(
                "its server died, and this kernel cannot be asked to send again what that had taken"
            )
        if self._deaths.are_hopeless:
            self._give_up(f"its server died {self._deaths.number} times in a row; the last one {why}")
        self._serving, self._next = self._next, None
        if self._serving is None:
            self._again_at = time.monotonic() + self._deaths.pause
        elif self._serving.prepared:
            self._let_begin(self._serving)
        self._pass_on_waiting()

    def _start_again(self) -> None:
        """Have another server serve, where there is none."""
        self._again_at = None
        try:
            self._serving = self._start()
        except OSError as error:  # as on a host that has no memory
            log.warning("no other server can be started for now: %s", error.strerror)
            self._deaths.add(quick=True, killed=True)
            if self._deaths.are_hopeless:
                self._give_up(f"no other server can be started: {error.strerror}")
            self._again_at = time.monotonic() + self._deaths.pause

    def _give_up(self, reason: str) -> None:
        self._serving = None
        self._clear()
        raise TakeoverError(f"the mount at {self._holding.target} is given up: {reason}", hint="see the log")

    def _clear(self) -> None:
        """Take down what is left, as the next mount would."""
        self._holding.withdraw()
        if self._next is not None:
            self._next.kill()
            self._next.wait()
        self._holding.clear()

    # -- upgrades --------------------------------------------------------------------------

    def _begin_anew(self, server: Server) -> None:
        """Have another one prepare to take over in place of `server`, which was given what does not hold any more."""
        self._gone.append(server)
        server.kill()
        self._next = None
        try:
            self._next = self._start()
        except OSError as error:
            self._has_failed(
                f"the tree was swapped, and no other process can be started: {error.strerror}", 5
            )

    def _upgrade(self) -> str | None:
        """Begin to replace the server; why not, if so."""
        serving = self._serving
        if self._next is not None:
            return "an upgrade is under way already"
        is_first = serving is not None and not serving.succeeds and serving.ready_at is None
        if self._ending or self._stopped or is_first or not self._holding.files:
            return "the mount is just starting, or ending"
        if serving is None:
            self._again_at = time.monotonic()  # from the program as it is on disk now
            return None
        if serving.ready_at is None:
            self._asked_early = True  # it may have begun before the program on the disk was another one
            return None
        try:
            self._next = self._start()
        except OSError as error:
            return f"cannot start a server: {error.strerror}"
        return None

    def _begin_early_upgrade(self) -> bool:
        """Begin what was asked for while nobody served; False where nothing was, or it cannot be begun."""
        if not self._asked_early:
            return False
        self._asked_early = False
        problem = self._upgrade()
        if problem is not None:
            self._askers.answer({"error": problem, "code": TakeoverError.exit_code})
        return problem is None


def _place(kind: str, source: int, stack: contextlib.ExitStack) -> controlplace.Place | None:
    try:
        return stack.enter_context(controlplace.Place(kind, source))
    except OSError as error:
        log.info(
            "there is no place for a control socket, so nobody can ask the mount for anything: %s", error
        )
        return None
