"""One mount, from its options to its end.

Role: puts the rooms together.  Flists become one index, stores become a router, the cache and the
fetcher join them, the engine serves the tree at ``BACKEND/ro`` (or at the mount point with ``--ro``), the overlay
lays the read-write layer over it.  Everything that was set up is taken down in the opposite order,
whether the mount ends or never came to be.

Threads: all of this runs in the main thread, which sleeps in `zerofs.mount.watch` while the mount is up;
requests are answered by the engine's threads, chunks fetched by the fetcher's.
"""

from __future__ import annotations

import contextlib
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
from zerofs.mount.watch import Event, Watch
from zerofs.sizes import parse_size

if TYPE_CHECKING:
    from zerofs.mount.flistmount import FlistMount
    from zerofs.mount.overlay import Overlay

log = logging.getLogger(__name__)

LAYERED = ".layered"  # in the backend: further flists, one a line, for the next SIGHUP
_SETTLE_FIRST, _SETTLE_LONGEST = 0.05, 30.0  # seconds between looks at names that still linger


def run(options: MountOptions, ready: Callable[[], None]) -> None:
    """Mount, call `ready`, serve until the mount ends, and take everything down.

    Raises ZerofsError where the mount cannot be made; nothing is left of it then.
    """
    with _interruptible(), contextlib.ExitStack() as stack:
        service = _Service(options, stack)
        service.set_up()
        watch = stack.enter_context(Watch())
        service.watch(watch)
        ready()
        service.serve(watch)


class _Service:
    def __init__(self, options: MountOptions, stack: contextlib.ExitStack) -> None:
        self._options = options
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
        self._target = _prepare_target(options)
        self._backend = self._stack.enter_context(_open_backend(options))
        if options.reset and options.meta:
            self._backend.reset(target=self._target, keep=[path for path in (options.log,) if path])
        self._backend.make_layers()
        self._timings.mark("backend")
        lower = self._target if options.read_only else self._backend.ro
        if options.meta:
            from zerofs.mount.flistmount import FlistMount

            self._flist = FlistMount(options, self._backend, lower, self._timings)
            self._stack.callback(self._flist.close)
            self._flist.mount()
        if not options.read_only:
            self._mount_overlay(self._backend)
        self._timings.mark("ready")
        if options.timings:
            self._timings.report()

    def _mount_overlay(self, backend: Backend) -> None:
        from zerofs.mount.overlay import mount_overlay

        self._overlay = mount_overlay(
            backend, self._target, flags=_overlay_flags(self._options.mount_options)
        )
        self._stack.callback(self._overlay.close)
        self._timings.mark("overlay")

    # -- while it is up --------------------------------------------------------------------

    def watch(self, watch: Watch) -> None:
        """Have `watch` see what ends the mount."""
        watch.add_mount(self._target)
        helper = getattr(self._overlay, "process_id", None)
        if helper is not None:
            watch.add_helper(helper)

    def serve(self, watch: Watch) -> None:
        """Wait for what ends the mount; swap the tree when told to."""
        pause: float | None = None
        while True:
            for event in watch.wait(pause):
                if event is not Event.HUP:
                    log.info("ending: %s", event.value)
                    return
                self._swap()
                pause = _SETTLE_FIRST
            if pause is not None:
                pause = min(pause * 2, _SETTLE_LONGEST) if self._linger() else None

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
            self._flist.swap(layers, lingering=self._overlay is not None)
            if self._overlay is not None:
                self._overlay.refresh()
            log.info("swapped the tree in %.0f ms", (time.monotonic() - started) * 1000)
        except (ZerofsError, OSError) as error:
            log.error("the tree was not swapped, the old one stays: %s", describe(error))  # noqa: TRY400

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


def _prepare_target(options: MountOptions) -> Path:
    """The mount point, without links, fit to be mounted at.

    It is created where the ancestor creates it (with ``--ro``); a dead mount at it is taken down.
    """
    target = mountinfo.locate(options.target)
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
    except OSError as error:
        raise MountError(f"cannot use the mount point {target}: {error.strerror}") from error
    return target


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM while the mount is being set up takes down what there is, as SIGINT does."""

    def interrupt(number: int, _frame: object) -> None:
        raise SystemExit(0)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _overlay_flags(chosen: frozenset[str]) -> int:
    """The mount flags of the union: set-user-id programs and devices work unless told otherwise."""
    flags = {"nosuid": MS_NOSUID, "nodev": MS_NODEV, "noexec": MS_NOEXEC, "noatime": MS_NOATIME}
    return sum(flag for name, flag in flags.items() if name in chosen)


@contextlib.contextmanager
def _open_backend(options: MountOptions) -> Iterator[Backend]:
    rw_size = None if options.rw_size is None else parse_size(options.rw_size)
    with open_backend(options.backend, rw_size=rw_size, union=not options.read_only) as backend:
        yield backend
