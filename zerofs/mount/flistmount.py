"""The read-only side of a mount: flists, their chunks, and the engine that serves them.

Place in the way of a read: none; this sets up those who are, and replaces the tree under them when told to.
Runs in the main thread.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zerofs.cache.lmdb import ChunkCache
from zerofs.cache.size import parse_cache_size
from zerofs.errors import MountError, ZerofsError
from zerofs.fetch.background import shared_background
from zerofs.fetch.fetcher import Fetcher
from zerofs.flist.index import Index
from zerofs.flist.load import LoadedFlist, load_flist, load_layers, profile_path
from zerofs.mount.backend import Backend
from zerofs.mount.engine import FuseEngine, Served
from zerofs.mount.failures import FailureLog
from zerofs.mount.options import MountOptions
from zerofs.store.build import build_router
from zerofs.store.url import redact

if TYPE_CHECKING:
    from zerofs.flist.graft import Graft
    from zerofs.mount.service import Timings
    from zerofs.prefetch.completion import Completion
    from zerofs.prefetch.prefetcher import Prefetcher
    from zerofs.store.router import Router

log = logging.getLogger(__name__)


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
    ) -> None:
        self._options = options
        self._place = place
        self._interruptible = interruptible  # around what may take long: reading flists
        self._directory = options.cache or backend.cache
        self._state = self._directory / "flists"
        self._timings = timings
        self._closers: list[Callable[[], None]] = []
        self._base: list[Index] = []  # of the flists on the command line
        self._mounted: Index
        self._completion: Completion | None = None
        self._prefetcher: Prefetcher | None = None
        self._served: Served
        self._router: Router
        self._flists = list(options.meta)  # that the mounted tree is made of, the last on top
        self._since = 0.0  # time.monotonic()

    def mount(self) -> None:
        """Load, mount and serve.  Raises ZerofsError; `close` takes down whatever there is by then."""
        with self._interruptible():
            flists = [self._load(argument) for argument in self._options.meta]
            self._base = [flist.index for flist in flists]
            self._mounted = load_layers(self._base, self._state)
        self._timings.mark("index")
        self._served = self._make_served(flists)
        self._timings.mark("cache and stores")
        self._engine = _make_engine(self._options, self._served, self._place)
        # a reader keeps a mount busy: first it is gone, then the waits end, and so the session can
        self._closers.insert(self._closers.index(self._served.fetcher.close), self._engine.close)
        self._closers.append(self._engine.unmount)
        if self._prefetcher is not None:
            self._prefetcher.listen(self._engine.take_touches)
            self._prefetcher.start()  # what is wanted first is on its way before anybody can ask for it
        self._engine.start()
        if self._options.complete is not None:
            self._start_completion(self._served, self._options.complete)
        self._since = time.monotonic()
        self._timings.mark("fuse")

    @property
    def ended(self) -> int:
        """A descriptor that becomes readable when nobody serves the mount any more."""
        return self._engine.ended

    def close(self) -> None:
        """Unmount and let go of everything, the latest first; one that fails keeps no other from it."""
        while self._closers:
            closer = self._closers.pop()
            try:
                closer()
            except (ZerofsError, OSError) as error:
                log.warning("while unmounting %s: %s", self._place, error)

    def prepare(self, layers: Sequence[str]) -> Swap:
        """The tree of `layers` (flists, the last on top) laid over those of the command line.

        What did not change keeps its node ids.  Raises ZerofsError; nothing is changed yet.
        """
        from zerofs.flist.graft import graft

        with self._interruptible():
            indexes = [*self._base, *(self._load(argument).index for argument in layers)]
            grafted = graft(self._mounted, load_layers(indexes, self._state))
            return Swap(grafted, Index.anonymous(grafted.tables), layers)

    def swap(self, tree: Swap, *, lingering: bool) -> None:
        """Serve what `prepare` made, which is used once and at once.

        `lingering`: names that were replaced while somebody holds them lead to the old node until they are
        released (see `forget_lingering`).  Raises OSError where the kernel could not be told.
        """
        grafted, index, layers = tree
        if self._prefetcher is not None:
            self._prefetcher.swap(index)  # before anybody can touch what is new
        self._engine.swap(index, grafted.replaced if lingering else ())
        self._mounted = index
        if self._completion is not None:
            self._completion.replace(index)
        self._flists = [*self._options.meta, *layers]
        notifier = self._engine.notifier
        for row, name in grafted.entries:
            notifier.forget_entry(row + 1, name)
        for row in grafted.rows:
            notifier.forget_attributes(row + 1)

    def forget_lingering(self) -> bool:
        """Ask the kernel again to drop replaced nodes; False where none is left."""
        names = self._engine.lingering_names()
        for row, name in names:
            self._engine.notifier.forget_entry(row + 1, name)
        return bool(names)

    def _start_completion(self, served: Served, rate: int) -> None:
        from zerofs.prefetch.completion import Completion

        self._completion = Completion(served.tree, served.cache, served.fetcher, rate)
        self._closers.append(self._completion.close)
        self._completion.start()

    def stats(self, target: Path) -> dict[str, object]:
        """All that is counted, as docs/commands.md says (`zerofs stats`); the mount is seen at `target`.

        Waits for nothing.  No secrets are in it.
        """
        served = self._served
        written, dropped = self._router.written_back()
        return {
            "mount": {
                "process": os.getpid(),
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
        return load_flist(argument, self._state, max_size=self._options.max_flist_size)

    def _make_served(self, flists: Sequence[LoadedFlist]) -> Served:
        options = self._options
        size_limit = parse_cache_size(options.cache_size, self._directory)
        cache = ChunkCache(self._directory, size_limit=size_limit)
        self._closers.append(cache.close)
        self._router = build_router(
            options.local_router,
            [(flist.argument, flist.router) for flist in flists if flist.router is not None],
            [route for flist in flists for route in flist.routes],
            options.storage_url,
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
                self._mounted,
                cache,
                fetcher,
                mode=options.prefetch,
                profile=profile_path(self._state, self._mounted.content_hash),
            )
            self._closers.append(self._prefetcher.close)
        return Served(self._mounted, cache, fetcher, FailureLog(), self._prefetcher)


def _make_engine(options: MountOptions, served: Served, place: Path) -> FuseEngine:
    """Mount by the engine that was asked for: the fast one, unless the kernel is too old for it."""
    fuse_options = _fuse_options(options)
    if options.engine != "llfuse":
        from zerofs.mount.fast_engine import FastEngine, is_possible

        if is_possible():
            return FastEngine(served, place, fuse_options)
        if options.engine == "fast":
            raise MountError("this kernel is too old for the fast engine", hint="use --engine llfuse")
    from zerofs.mount.llfuse_engine import LlfuseEngine

    return LlfuseEngine(served, place, fuse_options)


def _fuse_options(options: MountOptions) -> set[str]:
    """What libfuse is told.  The source of the mount is the process id: callers find the server by it."""
    chosen = {"ro", "default_permissions", f"fsname={os.getpid()}", f"subtype={options.subtype}"}
    if os.geteuid() == 0:
        chosen.add("allow_other")
    if options.read_only:
        chosen |= options.mount_options
        if os.geteuid() != 0 and options.mount_options & {"suid", "dev"}:
            raise MountError("only root may mount with suid or dev", hint="leave -o suid,dev out")
    return chosen
