"""One mount, from its options to its end.

Role: puts the rooms together.  Flists become one index, stores become a router, the cache and the
fetcher join them, the engine serves the tree at ``BACKEND/ro`` (or at the mount point with ``--ro``), the overlay
lays the read-write layer over it.  Everything that was set up is taken down in the opposite order,
whether the mount ends or never came to be.

Threads: all of this runs in the main thread, which sleeps in `zerofs.mount.watch` while the mount is up;
requests are answered by the engine's threads, chunks fetched by the fetcher's.  Signals are noted from the
first step to the last: only reading flists and emptying a backend, which may take long, are interrupted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.errors import FlistError, UsageError, ZerofsError, describe, reason_of
from zerofs.mount import systemd
from zerofs.mount._linux import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID
from zerofs.mount.backend import Backend, open_backend
from zerofs.mount.claim import claimed_target
from zerofs.mount.options import MountOptions
from zerofs.mount.timings import Timings
from zerofs.mount.watch import Event, Interrupted, Watch
from zerofs.sizes import parse_size

if TYPE_CHECKING:
    from zerofs.mount.flistmount import FlistMount, Swap
    from zerofs.mount.overlay import Overlay
    from zerofs.mount.session import Left, Session

log = logging.getLogger(__name__)

LAYERED = ".layered"  # in the backend: further flists, one a line, for the next SIGHUP
_SETTLE_FIRST, _SETTLE_LONGEST = 0.05, 30.0  # seconds between looks at names that still linger
_SETTLE_SECONDS = 0.02  # that each may take: who reads a name all the time lets go of it for instants


def run(options: MountOptions, ready: Callable[[], None], session: Session | None = None) -> None:
    """Mount, call `ready`, serve until the mount ends, and take everything down.

    Raises ZerofsError where the mount cannot be made; nothing is left of it then.  A process does this
    once and then ends: from the end of the mount on it ignores SIGTERM, SIGINT and SIGHUP.

    `session`: with a supervisor, who may have a mount that is to be taken over, and may have it handed over to another
    process.
    """
    left = None if session is None else session.left
    unmounts = None if left is None else left.files["unmounts"]
    with Watch(afterwards=signal.SIG_IGN, unmounts=unmounts) as watch, contextlib.ExitStack() as stack:
        service = _Service(options, watch, stack, session)
        try:
            if left is None:
                service.set_up()
            else:
                service.take_over(left)
            watch.check()
            ready()
            service.serve()
        except Interrupted:
            if session is not None:
                session.leave_to_successor()
            systemd.tell("STOPPING=1")
            log.info("ending: interrupted")
        except Exception as error:
            if session is None or not service.serves:
                raise
            log.exception("the server fails, and is replaced")
            session.give_up(error)


class _Service:
    def __init__(
        self, options: MountOptions, watch: Watch, stack: contextlib.ExitStack, session: Session | None
    ) -> None:
        self._options = options
        self._session = session
        self.serves = False  # what fails from now on, a successor may do better
        self._watch = watch
        self._stack = stack
        self._timings = Timings()
        self._target = Path()
        self._backend: Backend | None = None
        self._flist: FlistMount | None = None
        self._overlay: Overlay | None = None

    # -- up --------------------------------------------------------------------------------

    def set_up(self) -> None:
        options = self._options
        if options.read_only and not options.meta:
            raise UsageError(
                "--ro without --meta: there is nothing to mount", hint="name a flist with --meta"
            )
        with claimed_target(options) as self._target:
            self._backend = self._stack.enter_context(_open_backend(options))
            if options.reset and options.meta:
                with self._watch.interruptible():
                    self._backend.reset(target=self._target, keep=[path for path in (options.log,) if path])
            self._backend.make_layers()
            self._timings.mark("backend")
            if options.meta:
                self._mount_flist(self._backend)
            if not options.read_only:
                self._mount_overlay(self._backend)
            self._watch.add_mount(self._target)
        self._hand_over()
        self._is_up()

    def _is_up(self) -> None:
        self._timings.mark("ready")
        if self._options.timings:
            self._timings.report()
        if self._session is not None:
            self._watch.add_service(self._session.fileno(), self._session.attend)
            self.serves = True

    def _new_flist(self, backend: Backend) -> FlistMount:
        from zerofs.mount.flistmount import FlistMount

        place = self._target if self._options.read_only else backend.ro
        self._flist = FlistMount(
            self._options, backend, place, self._watch.interruptible, self._timings, self._session
        )
        self._stack.callback(self._flist.close)
        return self._flist

    def _mount_flist(self, backend: Backend) -> None:
        flist = self._new_flist(backend)
        flist.mount()
        self._watch.add_session(flist.ended)

    def _mount_overlay(self, backend: Backend) -> None:
        from zerofs.mount.overlay import mount_overlay

        self._overlay = mount_overlay(
            backend, self._target, flags=_overlay_flags(self._options.mount_options)
        )
        self._add_overlay(self._overlay)
        self._timings.mark("overlay")

    def _add_overlay(self, overlay: Overlay) -> None:
        self._stack.callback(overlay.close)
        helper = getattr(overlay, "process_id", None)
        if helper is not None:
            self._watch.add_helper(helper)

    # -- from one process to the next ------------------------------------------------------

    def take_over(self, left: Left) -> None:
        """Go on where another process stopped.  Where that cannot be, the process ends, and leaves the mount alone."""
        assert self._session is not None
        try:
            self._inherit(left, self._session)
        except Exception as error:  # noqa: BLE001 - whatever it is, the supervisor decides
            self._session.give_up(error)
        self._is_up()

    def _inherit(self, left: Left, session: Session) -> None:
        from zerofs.mount.estate import decode

        document, files = left
        self._target = Path(document["target"])
        backend = self._backend = Backend.inherited(document["backend"], files["lock"])
        self._stack.callback(backend.close)
        estate = decode(document["flist"], files)
        flist = self._new_flist(backend)
        flist.take_over(estate, session.await_turn)
        self._watch.add_session(flist.ended)
        if document["overlay"] is not None:
            from zerofs.mount.overlay import inherited_overlay

            self._overlay = inherited_overlay(document["overlay"], self._target)
            self._add_overlay(self._overlay)
        if estate.stale is not None and not session.is_to_end:
            with flist.kernel() as kernel:
                flist.forget(kernel, *estate.stale)
            self._try(self._refresh)  # all but what lingers is new by now; `serve` settles that
            self._hand_over()

    def _hand_over(self, pending: Swap | None = None) -> None:
        """Tell the supervisor, where there is one, what a successor would need from now on."""
        if self._session is None or self._flist is None or self._backend is None:
            return
        from zerofs.mount.estate import encode

        overlay, backend = self._overlay, self._backend
        estate = self._flist.estate(pending)
        flist, files = encode(estate, self._flist.state)
        try:
            self._session.hand_over(
                {
                    "target": os.fspath(self._target),
                    "backend": backend.remembered(),
                    "overlay": None if overlay is None else overlay.remembered(),
                    "flist": flist,
                },
                {**files, "lock": backend.lock, "unmounts": self._watch.unmounts},
                target=os.fspath(self._target),
                backend=None if backend.private else os.fspath(backend.path),
                resends=self._flist.resends,
            )
        finally:
            for name, descriptor in files.items():
                if name.startswith("index"):
                    os.close(descriptor)

    def _retire(self) -> bool:
        """Let a successor go on; False where there is none, after all."""
        assert self._session is not None
        if self._flist is None:
            return False
        drained = self._flist.halt()
        if self._session.await_dismissal(drained=drained):
            log.info("a successor has taken over")
            self._stack.pop_all()  # what stands there is not ours any more
            self._flist.leave()
            return True
        log.warning("the successor has failed: this process goes on")
        self._flist.go_on()
        return False

    # -- while it is up --------------------------------------------------------------------

    def serve(self) -> None:
        """Wait for what ends the mount; swap the tree when told to."""
        if self._flist is not None:
            self._flist.look_ahead()
            self._open_control(self._flist)
        if self._session is not None and self._session.is_to_end:
            return
        # names that linger may have been left by a predecessor
        pause: float | None = None if self._session is None else _SETTLE_FIRST
        while True:
            events = self._watch.wait(pause)
            for event in events:
                if event is Event.HUP:
                    self._swap()
                    pause = _SETTLE_FIRST
                elif event is not Event.RETIRE:
                    if self._session is not None:
                        self._session.leave_to_successor()
                        self._session.ending()
                    systemd.tell("STOPPING=1")
                    log.info("ending: %s", event.value)
                    return
                elif self._retire():
                    return
            if pause is not None and not events:
                pause = min(pause * 2, _SETTLE_LONGEST) if self._still_lingers() else None

    def _open_control(self, flist: FlistMount) -> None:
        """Let `zerofs stats` ask.  A mount does its work without, and nobody waits for this to use it."""
        from zerofs.mount.control import Control

        try:
            listener = None if self._session is None else self._session.listener
            control = Control(lambda: flist.stats(self._target), listener)
        except OSError as error:
            log.info(
                "there is no place for a control socket, so nobody can ask for statistics: %s",
                reason_of(error),
            )
            return
        self._stack.callback(control.close)
        self._watch.add_service(control.fileno(), control.serve)
        self._stack.callback(self._watch.remove_service, control.fileno())

    def _swap(self) -> None:
        """Lay the flists of ``.layered`` over those of the command line; on failure the old tree stays."""
        if self._flist is None or self._backend is None:
            return
        try:
            layers = read_layered(self._backend.path / LAYERED)
            if layers is None:
                return
            started = time.monotonic()
            self._refresh()  # a union that cannot take up another tree says so before there is one
            tree = self._flist.prepare(layers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the containers on the old tree go on
            log.error("the tree was not swapped, the old one stays: %s", describe(error))  # noqa: TRY400
            return
        try:
            with self._flist.kernel() as kernel:
                self._hand_over(tree)  # before the kernel can learn of a node that a successor would not know
                self._flist.swap(kernel, tree)
                if self._overlay is not None:
                    self._overlay.refresh(kernel)
            self._try(self._settle)
            self._hand_over()
        except (ZerofsError, OSError) as error:
            log.error("the tree was swapped in part, or not at all: %s", describe(error))  # noqa: TRY400
        else:
            log.info("swapped the tree in %.0f ms", (time.monotonic() - started) * 1000)

    def _refresh(self) -> None:
        if self._overlay is not None and self._flist is not None:
            with self._flist.kernel() as kernel:
                self._overlay.refresh(kernel)

    def _settle(self) -> None:
        """Let replaced names lead to their new nodes where nobody holds the old ones."""
        if self._overlay is not None and self._flist is not None:
            self._flist.settle(self._overlay.refresh, _SETTLE_SECONDS)

    def _try(self, step: Callable[[], None]) -> None:
        """Do what makes names show the new tree; only warn where it cannot be done."""
        try:
            step()
        except (ZerofsError, OSError) as error:
            log.warning("some names may still show the old tree: %s", reason_of(error))

    def _still_lingers(self) -> bool:
        """Whether some names lead to old nodes, after another look at who holds them."""
        self._try(self._settle)
        return self._flist is not None and self._flist.lingers


def read_layered(path: Path) -> list[str] | None:
    """The flists named in ``.layered``, the last on top; None where there is no such file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FlistError(f"cannot read {path}: {error.strerror}") from error
    return [os.fsdecode(line) for line in map(bytes.strip, text.split(b"\n")) if line]


def _overlay_flags(chosen: frozenset[str]) -> int:
    """The mount flags of the union: set-user-id programs and devices work unless told otherwise."""
    flags = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": MS_NOATIME}
    return sum(flag for name, flag in flags.items() if name in chosen)


def _open_backend(options: MountOptions) -> Backend:
    rw_size = None if options.rw_size is None else parse_size(options.rw_size)
    return open_backend(options.backend, rw_size=rw_size, union=not options.read_only)
