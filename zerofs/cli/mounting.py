"""Run a mount from the command line: its log, its way to the background, its announcement."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from zerofs.errors import ZerofsError, describe
from zerofs.interruption import INTERRUPTED, interruptible
from zerofs.mount import systemd
from zerofs.mount.options import MountOptions

log = logging.getLogger(__name__)

DAEMON_LOG = Path("/var/log/g8ufs.log")
_FORMAT = "%(asctime)s %(levelname)s %(message)s"
_DEBUG_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s"


def run_mount(program: str, options: MountOptions, again: Sequence[str], *, announcement: str) -> int:
    """Mount and serve until the end; returns the exit status.

    `announcement` is printed once the tree can be used; with ``--daemon`` by the process that the user
    started, which then ends.  `again`: what `zerofs.cli.serving` makes the same `options` of.  Raises ZerofsError
    where the mount cannot be made.
    """
    run = _runner(options, again)
    if options.log is not None:
        _make_room(options.log)
    if options.daemon:
        return _run_daemon(program, options, run, announcement)
    open_log(options.log, debug=options.debug)
    try:
        run(options, lambda: _announce(announcement))
    except ZerofsError as error:
        if options.log is not None:  # which may be all that is kept of this
            log.error("%s", describe(error))  # noqa: TRY400
        raise
    return 0


def _runner(
    options: MountOptions, again: Sequence[str]
) -> Callable[[MountOptions, Callable[[], None]], None]:
    """What mounts: this process, or another that it supervises."""
    if options.supervised:
        from zerofs.mount.supervisor import supervise

        here = Path.cwd()
        return lambda options, ready: supervise(options, again, here, ready)
    from zerofs.mount.service import run

    return run


def _announce(line: str) -> None:
    """Say it on stdout, and to systemd.  Whoever started the mount may be gone by now: it stays all the same."""
    systemd.tell("READY=1")
    with contextlib.suppress(BrokenPipeError):
        os.write(1, os.fsencode(line) + b"\n")


def _run_daemon(
    program: str,
    options: MountOptions,
    run: Callable[[MountOptions, Callable[[], None]], None],
    announcement: str,
) -> int:
    options = absolute(options, Path.cwd())  # a daemon leaves the directory that they are relative to
    with interruptible():  # until the mount takes signals itself: the pid file is to go
        return _serve_detached(program, options, run, announcement)


def _serve_detached(
    program: str,
    options: MountOptions,
    run: Callable[[MountOptions, Callable[[], None]], None],
    announcement: str,
) -> int:
    from zerofs.mount.daemon import detach

    daemon = detach(log=options.log or DAEMON_LOG, pid_file=options.pid_file, announce=announcement)
    announced = False

    def ready() -> None:
        nonlocal announced
        announced = True
        daemon.ready()

    try:
        open_log(None, debug=options.debug)  # stderr is the log by now
        run(options, ready)
        if not announced:
            daemon.failed(INTERRUPTED, f"{program}: interrupted before the mount could be used")
            return INTERRUPTED
    except ZerofsError as error:
        if announced:
            raise
        log.error("%s", describe(error))  # noqa: TRY400
        daemon.failed(error.exit_code, f"{program}: {describe(error)}")
        return error.exit_code
    finally:
        daemon.close()
    return 0


def absolute(options: MountOptions, here: Path) -> MountOptions:
    """The same with absolute paths, those that are not relative to `here`."""
    return options._replace(
        target=here / options.target,
        meta=tuple(name if "://" in name else str(here / name) for name in options.meta),
        backend=None if options.backend is None else here / options.backend,
        cache=None if options.cache is None else here / options.cache,
        storage_url=_absolute_file(options.storage_url, here),
        local_router=None if options.local_router is None else here / options.local_router,
        log=None if options.log is None else here / options.log,
    )


def _absolute_file(url: str | None, here: Path) -> str | None:
    return f"@{here / url[1:]}" if url is not None and url.startswith("@") else url


def _make_room(path: Path) -> None:
    """Make the directory of the log, which may lie in a backend that does not exist yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_log(path, error) from error


def open_log(path: Path | None, *, debug: bool) -> None:
    """Log to `path`, or to stderr."""
    try:
        handler = logging.StreamHandler(sys.stderr) if path is None else logging.FileHandler(path)
    except OSError as error:
        raise _cannot_log(path, error) from error
    handler.setFormatter(logging.Formatter(_DEBUG_FORMAT if debug else _FORMAT))
    logging.basicConfig(handlers=[handler], level=logging.DEBUG if debug else logging.INFO)


def _cannot_log(path: Path | None, error: OSError) -> ZerofsError:
    return ZerofsError(
        f"cannot write the log {path}: {error.strerror}", hint="choose another file with --log"
    )
