"""The read-only side of a mount: flists, their chunks, and the engine that serves them.

Place in the way of a read: none; this sets up those who are, and replaces the tree under them when told to.
Runs in the main thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zerofs.cache.lmdb import ChunkCache
from zerofs.cache.size import bound_of, parse_cache_free
from zerofs.errors import MountError, ZerofsError, reason_of
from zerofs.fetch.background import shared_background
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.index import Index
from zerofs.flist.load import LoadedFlist, load_flist, load_layers, profile_path
from zerofs.mount._linux import give_back_from
from zerofs.mount.backend import Backend
from zerofs.mount.engine import FuseEngine, Served
from zerofs.mount.failures import FailureLog
from zerofs.mount.notify import Led
from zerofs.mount.options import MountOptions
from zerofs.store.build import build_router
from zerofs.store.given import last_resort
from zerofs.store.url import redact

if TYPE_CHECKING:
    from zerofs.flist.graft import Graft
    from zerofs.mount.estate import Estate
    from zerofs.mount.fast_engine import FastEngine
    from zerofs.mount.notify import Teller
    from zerofs.mount.session import Session
    from zerofs.mount.timings import Timings
    from zerofs.prefetch.completion import Completion
    from zerofs.prefetch.prefetcher import Prefetcher
    from zerofs.store.router import Router

log = logging.getLogger(__name__)

_TOGETHER = 16  # names whose old nodes are asked for at a time: who looks one up meanwhile goes on seeing it
_LARGE = 128 << 10  # bytes; chunks and payloads, which would else stay with the threads that had them


class Swap(NamedTuple):
    """A tree that is ready to take the place of the one that is served."""

    graft: Graft
    compiled: Index
    flists: Sequence[str]  # beside those of the command line


class FlistMount:
    """Flists mounted read-only at one place.  `mount`, perhaps `swap`, then `close`."""

    def __init__(
        self,
        options: MountOptions,
        backend: Backend,
        place: Path,
        interruptible: Callable[[], AbstractContextManager[None]],
        timings: Timings,
        session: Session | None = None,
    ) -> None:
        self._session = session
        self._options = options
        self._place = place
        self._interruptible = interruptible  # around what may take long: reading flists
        self._directory = options.cache or backend.cache
        self.state = self._directory / "flists"  # where indexes lie
        self._timings = timings
        self._closers: list[Callable[[], None]] = []
        self._loaded: Sequence[LoadedFlist] = ()  # the flists on the command line
        self._first: Index  # what was mounted at first: profiles are about it
        self._mounted: Index
        self._engine: FuseEngine
        self._completion: Completion | None = None
        self._prefetcher: Prefetcher | None = None
        self._served: Served
        self._router: Router
        self._flists: list[str] = list(options.meta)  # that the mounted tree is made of, the last on top
        self._since = 0.0  # time.monotonic()

    def mount(self) -> None:
        """Load, mount and serve.  Raises ZerofsError; `close` takes down whatever there is by then."""
        give_back_from(_LARGE)
        with self._interruptible():
            self._loaded = [self._load(argument) for argument in self._options.meta]
            self._first = self._mounted = load_layers([flist.index for flist in self._loaded], self.state)
        self._timings.mark("index")
        self._served = self._make_served()
        self._timings.mark("cache and stores")
        self._engine = _make_engine(self._options, self._served, self._place, self._session)
        self._start()
        self._since = time.monotonic()
        self._timings.mark("fuse")

    def take_over(self, estate: Estate, turn: Callable[[], None]) -> None:
        """Serve what another process has mounted, as soon as `turn` returns."""
        self._loaded, self._first, self._mounted = estate.loaded, estate.first, estate.mounted
        self._flists += list(estate.layers)
        self._since = estate.since
        self._timings.mark("index")
        self._served = self._make_served()
        if self._prefetcher is not None and self._mounted is not self._first:
            self._prefetcher.swap(self._mounted)
        from zerofs.mount.fast_engine import FastEngine

        self._engine = FastEngine(self._served, self._place, set(), estate.engine, shared=True)
        self._timings.mark("cache and stores")
        turn()
        self._start()
        self._timings.mark("fuse")

    def look_ahead(self) -> None:
        """Begin to prefetch."""
        if self._prefetcher is not None:
            self._prefetcher.start()

    def estate(self, pending: Swap | None = None) -> Estate:
        """What a successor needs.  `pending`: a tree that is about to be served."""
        from zerofs.mount.estate import Estate, Stale

        engine = self._fast().inheritance()
        if pending is None:
            layers = self._flists[len(self._options.meta) :]
            return Estate(self._loaded, self._first, self._mounted, layers, self._since, engine, None)
        grafted, index, upper = pending
        engine = engine._replace(replaced=[*engine.replaced, *self._lingering(grafted)])
        stale = Stale(grafted.entries, grafted.rows)
        return Estate(self._loaded, self._first, index, list(upper), self._since, engine, stale)

    def _start(self) -> None:
        # a reader keeps a mount busy: first it is gone, then the waits end, and so the session can
        self._closers.insert(self._closers.index(self._served.fetcher.close), self._engine.close)
        self._closers.append(self._engine.unmount)
        if self._prefetcher is not None:
            self._prefetcher.listen(self._engine.take_touches)
        self._engine.start()
        if self._options.complete is not None:
            self._start_completion(self._served, self._options.complete)

    def _fast(self) -> FastEngine:
        from zerofs.mount.fast_engine import FastEngine

        assert isinstance(self._engine, FastEngine)
        return self._engine

    @property
    def ended(self) -> int:
        """A descriptor that becomes readable when nobody serves the mount any more."""
        return self._engine.ended

    def halt(self) -> bool:
        """Take no more requests: a successor is about to.  Whether none is lost to it."""
        return self._fast().halt(self._options.timeout)

    @property
    def resends(self) -> bool:
        """Whether a successor is sent what this process took and did not answer."""
        return self._fast().resends

    def go_on(self) -> None:
        """Undo `halt`."""
        self._fast().go_on()

    def leave(self) -> None:
        """Let go of everything but the mount, which another process serves by now."""
        engine = self._fast()
        self._closers = [closer for closer in self._closers if closer not in (engine.close, engine.unmount)]
        self.close()

    def close(self) -> None:
        """Unmount and let go of everything, the latest first; one that fails keeps no other from it."""
        while self._closers:
            closer = self._closers.pop()
            try:
                closer()
            except (ZerofsError, OSError) as error:
                log.warning("while unmounting %s: %s", self._place, reason_of(error))

    def prepare(self, layers: Sequence[str]) -> Swap:
        """The tree of `layers` (flists, the last on top) laid over those of the command line.

        What did not change keeps its node ids.  Raises ZerofsError; nothing is changed yet.
        """
        from zerofs.flist.graft import graft

        with self._interruptible():
            indexes = [
                *(flist.index for flist in self._loaded),
                *(self._load(argument).index for argument in layers),
            ]
            grafted = graft(self._mounted, load_layers(indexes, self.state))
            return Swap(grafted, Index.anonymous(grafted.tables), layers)

    def swap(self, kernel: Teller, tree: Swap) -> None:
        """Serve what `prepare` made, which is used once and at once.

        Below a union, replaced names lead to the old node until `settle` finds that nobody holds it.  Raises
        OSError where the kernel could not be told.
        """
        grafted, index, layers = tree
        if self._prefetcher is not None:
            self._prefetcher.swap(index)  # before anybody can touch what is new
        self._engine.swap(index, self._lingering(grafted))
        self._mounted = index
        if self._completion is not None:
            self._completion.replace(index)
        self._flists = [*self._options.meta, *layers]
        self.forget(kernel, grafted.entries, grafted.rows)

    def _lingering(self, grafted: Graft) -> Sequence[tuple[tuple[int, bytes], int]]:
        return () if self._options.read_only else grafted.replaced

    def forget(self, kernel: Teller, entries: Iterable[tuple[int, bytes]], rows: Iterable[int]) -> None:
        """Have the kernel ask anew for names (row of the directory, name) and attributes."""
        kernel.forget_entries((row + 1, name) for row, name in entries)
        kernel.forget_attributes(row + 1 for row in rows)

    @property
    def lingers(self) -> bool:
        """Whether some replaced names still lead to their old nodes."""
        return self._engine.lingering.any

    def kernel(self) -> AbstractContextManager[Teller]:
        """Somebody to tell the kernel what it is to forget.  Raises OSError."""
        return self._engine.notifier.at_work()

    def settle(self, refresh: Callable[[Teller, Sequence[Led]], list[bool]], seconds: float) -> None:
        """Let replaced names lead to their new nodes where the kernel does not hold the old one.

        What the union above holds it lets go of where it is not in use when it is `refresh`ed (see `Overlay`); that is
        done again and again, for so many seconds.  Raises OSError, and what `refresh` raises.
        """
        lingering, end = self._engine.lingering, time.monotonic() + seconds
        if not lingering.any:
            return
        with self.kernel() as kernel:
            while lingering.any and time.monotonic() < end:
                ask: Callable[[Sequence[Led]], list[bool]] = partial(refresh, kernel)
                nodes = lingering.nodes()
                for at in range(0, len(nodes), _TOGETHER):
                    self._release(ask, nodes[at : at + _TOGETHER])
                    ask = kernel.forget_and_ask

    def _release(
        self, ask: Callable[[Sequence[Led]], list[bool]], names: Sequence[tuple[tuple[int, bytes], int]]
    ) -> None:
        lingering = self._engine.lingering
        lookups = [lingering.lookups(place) for place, _ in names]
        # a name takes the lock of its directory: every answer that was given in that by now has arrived
        held = ask([Led(row + 1, name, old + 1) for (row, name), old in names])
        for (place, _), count, is_held in zip(names, lookups, held, strict=True):
            if not is_held:
                lingering.release(place, count)

    def _start_completion(self, served: Served, rate: int) -> None:
        from zerofs.prefetch.completion import Completion

        self._completion = Completion(served.tree, served.cache, served.fetcher, rate)
        self._closers.append(self._completion.close)
        self._completion.start()

    def stats(self, target: Path) -> dict[str, object]:
        """All that is counted, as docs/commands.md says (`zerofs stats`); the mount is seen at `target`.

        Waits for nothing.  No secrets are in it.
        """
        served, session = self._served, self._session
        written, dropped = self._router.written_back()
        return {
            "mount": {
                "process": os.getpid() if session is None else session.supervisor,
                "server": os.getpid(),
                "takeovers": None if session is None else session.takeovers,
                "target": os.fspath(target),
                "device": self._engine.device,
                "flists": [redact(flist) if "://" in flist else flist for flist in self._flists],
                "engine": self._engine.name,
                "union": not self._options.read_only,
                "uptime": time.monotonic() - self._since,
                "names": self._mounted.map.node_count,
                "chunks": self._mounted.map.chunk_count,
                "bytes": self._mounted.total_size,
            },
            "reads": self._engine.reads()._asdict(),
            "fetch": {**served.fetcher.stats()._asdict(), "latency": served.fetcher.latency()},
            "stores": self._router.stats(),
            "write_back": {"written": written, "dropped": dropped},
            "cache": {"directory": os.fspath(self._directory), **served.cache.stats()._asdict()},
            "prefetch": None if self._prefetcher is None else self._prefetcher.stats(),
        }

    def _load(self, argument: str) -> LoadedFlist:
        return load_flist(argument, self.state, max_size=self._options.max_flist_size)

    def _make_served(self) -> Served:
        options, flists = self._options, self._loaded
        size_limit = bound_of(options.cache_size, self._directory)
        free_limit = parse_cache_free(options.cache_free, self._directory)
        cache = ChunkCache(self._directory, size_limit=size_limit, free_limit=free_limit)
        self._closers.append(cache.close)
        self._router = build_router(
            options.local_router,
            [(flist.argument, flist.router) for flist in flists if flist.router is not None],
            [route for flist in flists for route in flist.routes],
            last_resort(options.storage_url),
        )
        self._closers.append(self._router.close)
        fetcher = Fetcher(
            self._router, cache, timeout=options.timeout, allow_unverified=options.allow_unverified
        )
        self._closers.append(fetcher.close)
        if options.prefetch_rate is not None:
            shared_background().limit(options.prefetch_rate)
        if options.prefetch != "off":
            from zerofs.prefetch.prefetcher import Prefetcher

            self._prefetcher = Prefetcher(
                self._first,
                cache,
                fetcher,
                mode=options.prefetch,
                profile=profile_path(self.state, self._first.content_hash),
                began=self._since or None,
            )
            self._closers.append(self._prefetcher.close)
        return Served(self._mounted, cache, fetcher, FailureLog(), self._prefetcher)


def _make_engine(options: MountOptions, served: Served, place: Path, session: Session | None) -> FuseEngine:
    """Mount by the engine that was asked for: the fast one, unless the kernel is too old for it."""
    fuse_options = _fuse_options(options, os.getpid() if session is None else session.supervisor)
    if options.engine != "llfuse":
        from zerofs.mount.fast_engine import FastEngine, is_possible

        if is_possible():
            return FastEngine(served, place, fuse_options, shared=session is not None)
        if options.engine == "fast" or session is not None:
            raise MountError(
                "this kernel is too old for the fast engine", hint="use --engine llfuse, without --supervised"
            )
    from zerofs.mount.llfuse_engine import LlfuseEngine

    return LlfuseEngine(served, place, fuse_options)


def _fuse_options(options: MountOptions, process: int) -> set[str]:
    """What libfuse is told.  The source of the mount is the `process` id: callers find the server by it."""
    chosen = {"ro", "default_permissions", f"fsname={process}", f"subtype={options.subtype}"}
    if os.geteuid() == 0:
        chosen.add("allow_other")
    if options.read_only:
        chosen |= options.mount_options
        if os.geteuid() != 0 and options.mount_options & {"suid", "dev"}:
            raise MountError("only root may mount with suid or dev", hint="leave -o suid,dev out")
    return chosen
