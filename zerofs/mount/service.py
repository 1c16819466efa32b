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
import fcntl
import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.errors import FlistError, MountError, UsageError, ZerofsError, describe
from zerofs.mount import mountinfo
from zerofs.mount._linux import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID
from zerofs.mount.backend import Backend, open_backend
from zerofs.mount.options import MountOptions
from zerofs.mount.unmount import clear_target
from zerofs.mount.watch import Event, Interrupted, Watch
from zerofs.sizes import parse_size

if TYPE_CHECKING:
    from zerofs.mount.flistmount import FlistMount
    from zerofs.mount.overlay import Overlay

log = logging.getLogger(__name__)

LAYERED = ".layered"  # in the backend: further flists, one a line, for the next SIGHUP
_SETTLE_FIRST, _SETTLE_LONGEST = 0.05, 30.0  # seconds between looks at names that still linger


def run(options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount, call `ready`, serve until the mount ends, and take everything down.

    Raises ZerofsError where the mount cannot be made; nothing is left of it then.  A process does this
    once and then ends: from the end of the mount on it ignores SIGTERM, SIGINT and SIGHUP.
    """
    with Watch(afterwards=signal.SIG_IGN) as watch, contextlib.ExitStack() as stack:
        service = _Service(options, watch, stack)
        try:
            service.set_up()
            watch.check()
            ready()
            service.serve()
        except Interrupted:
            log.info("ending: interrupted")


class _Service:
    def __init__(self, options: MountOptions, watch: Watch, stack: contextlib.ExitStack) -> None:
        self._options = options
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
        with _claimed_target(options) as self._target:
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
        self._timings.mark("ready")
        if options.timings:
            self._timings.report()

    def _mount_flist(self, backend: Backend) -> None:
        from zerofs.mount.flistmount import FlistMount

        place = self._target if self._options.read_only else backend.ro
        self._flist = FlistMount(self._options, backend, place, self._watch.interruptible, self._timings)
        self._stack.callback(self._flist.close)
        self._flist.mount()
        self._watch.add_session(self._flist.ended)

    def _mount_overlay(self, backend: Backend) -> None:
        from zerofs.mount.overlay import mount_overlay

        self._overlay = mount_overlay(
            backend, self._target, flags=_overlay_flags(self._options.mount_options)
        )
        self._stack.callback(self._overlay.close)
        helper = getattr(self._overlay, "process_id", None)
        if helper is not None:
            self._watch.add_helper(helper)
        self._timings.mark("overlay")

    # -- while it is up --------------------------------------------------------------------

    def serve(self) -> None:
        """Wait for what ends the mount; swap the tree when told to."""
        if self._flist is not None:
            self._open_control(self._flist)
        pause: float | None = None
        while True:
            for event in self._watch.wait(pause):
                if event is not Event.HUP:
                    log.info("ending: %s", event.value)
                    return
                self._swap()
                pause = _SETTLE_FIRST
            if pause is not None:
                pause = min(pause * 2, _SETTLE_LONGEST) if self._linger() else None

    def _open_control(self, flist: FlistMount) -> None:
        """Let `zerofs stats` ask.  A mount does its work without, and nobody waits for this to use it."""
        from zerofs.mount.control import Control

        try:
            control = Control(lambda: flist.stats(self._target))
        except OSError as error:
            log.info("there is no place for a control socket, so nobody can ask for statistics: %s", error)
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
            if self._overlay is not None:
                self._overlay.refresh()  # a union that cannot take up another tree says so before there is one
            tree = self._flist.prepare(layers)
        except Exception as error:  # noqa: BLE001 - whatever it is, the containers on the old tree go on
            log.error("the tree was not swapped, the old one stays: %s", describe(error))  # noqa: TRY400
            return
        try:
            self._flist.swap(tree, lingering=self._overlay is not None)
            if self._overlay is not None:
                self._overlay.refresh()
        except (ZerofsError, OSError) as error:
            log.error("the tree was swapped, but some names may still show the old one: %s", describe(error))  # noqa: TRY400
        else:
            log.info("swapped the tree in %.0f ms", (time.monotonic() - started) * 1000)

    def _linger(self) -> bool:
        """Make the kernel let go of replaced nodes that nobody holds any more; True while some are left."""
        if self._flist is None or self._overlay is None or not self._flist.forget_lingering():
            return False
        try:
            self._overlay.refresh()
        except (ZerofsError, OSError) as error:
            log.warning("cannot refresh the overlay: %s", error)
        return True


class Timings:
    """Where the time until the mount went: seconds since the process began, by step."""

    def __init__(self) -> None:
        self._marks: list[tuple[str, float]] = []

    def mark(self, step: str) -> None:
        self._marks.append((step, time.monotonic()))

    def report(self) -> None:
        """Write the steps to the log's place: stderr."""
        before = _process_start()
        lines = []
        for step, at in self._marks:
            lines.append(f"{step} {(at - before) * 1000:.1f}")
            before = at
        os.write(2, ("timings (ms): " + ", ".join(lines) + "\n").encode())


def _process_start() -> float:
    """When this process was started, on the clock of time.monotonic; the kernel counts in 10 ms steps."""
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    since_boot = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return since_boot - (time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic())


def read_layered(path: Path) -> list[str] | None:
    """The flists named in ``.layered``, the last on top; None where there is no such file."""
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise FlistError(f"cannot read {path}: {error.strerror}") from error
    return [os.fsdecode(line) for line in map(bytes.strip, text.split(b"\n")) if line]


@contextlib.contextmanager
def _claimed_target(options: MountOptions) -> Iterator[Path]:
    """The mount point, without links and fit to be mounted at; nobody else mounts there meanwhile.

    It is created where the ancestor creates it (with ``--ro``); a dead mount at it is taken down.
    """
    target = mountinfo.locate(options.target)
    if options.backend is not None and Path(os.path.realpath(options.backend)) == target:
        raise UsageError(f"{target} cannot be backend and mount point at once", hint="name two directories")
    clear_target(target)
    try:
        if options.read_only and not target.exists():
            target.mkdir(parents=True)
        if not target.is_dir():
            missing = not target.exists()
            raise MountError(
                f"the mount point {target} does not exist" if missing else f"{target} is not a directory",
                hint=f"mkdir {target}" if missing else "name a directory to mount at",
            )
        claim = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise MountError(f"cannot use the mount point {target}: {error.strerror}") from error
    try:
        _claim(claim, target)
        clear_target(target)  # again: somebody may have mounted there before the claim
        yield target
    finally:
        os.close(claim)


def _claim(directory: int, target: Path) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise MountError(
            f"{target} is busy: another process is about to mount there", hint="choose another mount point"
        ) from None
    except OSError as error:
        log.debug("%s cannot be locked, two mounts at once would stack: %s", target, error)


def _overlay_flags(chosen: frozenset[str]) -> int:
    """The mount flags of the union: set-user-id programs and devices work unless told otherwise."""
    flags = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": MS_NOATIME}
    return sum(flag for name, flag in flags.items() if name in chosen)


@contextlib.contextmanager
def _open_backend(options: MountOptions) -> Iterator[Backend]:
    rw_size = None if options.rw_size is None else parse_size(options.rw_size)
    with open_backend(options.backend, rw_size=rw_size, union=not options.read_only) as backend:
        yield backend
