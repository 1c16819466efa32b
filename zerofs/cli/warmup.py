"""`zerofs warmup`: the chunks that will be read come into the cache now, or how many of them are there is said."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zerofs.cli import options, output
from zerofs.errors import CacheError, ProfileError, UsageError
from zerofs.interruption import interruptible
from zerofs.sizes import parse_size
from zerofs.store.given import last_resort

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.flist.index import Index
    from zerofs.prefetch.survey import Survey
    from zerofs.prefetch.warmup import WarmUp
    from zerofs.store.router import Router

THREADS = 8  # each a connection with a batch under way: at 5 ms, 4 took half as long again

EPILOG = """\
examples:
  zerofs warmup --cache /var/cache/zerofs --all image.flist
  zerofs warmup --cache /var/cache/zerofs image.flist /usr/bin/python3 /usr/lib/python3.11
  zerofs warmup --all --rate 20M /mnt              the flist that is mounted there, and its cache
  zerofs warmup --profile /mnt
  zerofs warmup --check /mnt

Directories stand for all files below them.  With --check nothing is fetched, and the exit status is 1 where
something is missing.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("source", metavar="FLIST|MOUNTPOINT", help="a flist, or where one is mounted")
    parser.add_argument(
        "paths", metavar="PATH", nargs="*", default=[], help="a file or directory in the flist"
    )
    parser.add_argument("--all", action="store_true", help="the whole image")
    parser.add_argument(
        "--profile",
        action="store_true",
        help="what the flist's access profile names: what its mounts wanted when they started",
    )
    parser.add_argument(
        "--rate",
        type=parse_size,
        metavar="RATE",
        help="at most so many bytes a second, as 20M (default: no bound)",
    )
    parser.add_argument("--check", action="store_true", help="only say how much is there")
    options.add_flist_options(parser, "the cache that the chunks go to (of a mount: the one that it uses)")
    parser.add_argument(
        "--cache-size",
        metavar="SIZE",
        help="bound of the cache, where this is its only user (default: as a mount's)",
    )
    options.add_storage_options(parser)
    options.add_json(parser)


class _Opened(NamedTuple):
    tree: Index
    cache: ChunkCache
    router: Router


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    if args.all + bool(args.paths) + args.profile > 1:
        raise UsageError(
            "--all, --profile and paths exclude each other", hint="leave all but one of them out"
        )
    if not (args.all or args.paths or args.profile or args.check):
        raise UsageError("nothing to warm up", hint="name paths, or give --profile or --all")
    with interruptible(), _opened(args) as opened:
        look = _profile_survey(args, opened) if args.profile else _file_survey(args, opened)
        before = look()
        if args.check:
            return _report(args, before)
        done = _fetch(args, opened, before)
        after = look()
        full = opened.cache.full or before.size > opened.cache.capacity
    for error in done.failures[:1]:
        output.warn(f"{len(done.failures):,} chunks could not be had: {error}")
    status = _report(args, after, fetched=done.fetched, failed=len(done.failures))
    if full and status:
        raise CacheError("the cache is full", hint="raise its bound with --cache-size")
    return status


def _file_survey(args: argparse.Namespace, opened: _Opened) -> Callable[[], Survey]:
    from zerofs.prefetch.survey import survey

    files = dict.fromkeys(_files(opened.tree, args.paths))
    return lambda: survey(opened.tree, opened.cache, files)


def _profile_survey(args: argparse.Namespace, opened: _Opened) -> Callable[[], Survey]:
    from zerofs.flist.load import profile_path
    from zerofs.prefetch.profile import check_fits, read_profile
    from zerofs.prefetch.survey import survey_chunks

    tree = opened.tree
    path = profile_path(args.cache / "flists", tree.content_hash)
    try:
        profile = read_profile(path)
    except FileNotFoundError:
        raise ProfileError(
            f"there is no access profile of {args.source} in {args.cache}",
            hint="a mount records one when it ends; zerofs profile import brings one along",
        ) from None
    check_fits(profile, tree.content_hash, tree.chunk_count, str(path))
    numbers = [entry.number for entry in profile.entries]
    return lambda: survey_chunks(tree, opened.cache, numbers)


def _fetch(args: argparse.Namespace, opened: _Opened, found: Survey) -> WarmUp:
    """Fetch what is lacking; all of it is in the cache when this returns, or never will be."""
    from zerofs.cli.progress import shown_progress
    from zerofs.fetch.fetcher import Fetcher
    from zerofs.prefetch.warmup import WarmUp

    fetcher = Fetcher(
        opened.router,
        opened.cache,
        timeout=args.timeout,
        threads=THREADS,
        allow_unverified=args.allow_unverified,
    )
    try:
        with shown_progress("warming up", silent=args.json, unit="chunks") as progress:
            progress.expect(files=len(found.lacking), size=found.size - found.size_here)
            work = WarmUp(
                opened.tree,
                fetcher,
                advance=lambda size: progress.advance(files=1, size=size),
                rate=args.rate,
            )
            work.run(_fitting(opened, found))
    finally:
        fetcher.close()
    return work


def _fitting(opened: _Opened, found: Survey) -> Iterator[int]:
    """What is lacking, as far as it fits beside what is there: no chunk is to push out another of them."""
    room = opened.cache.capacity - found.size_here
    for number in found.lacking:
        room -= opened.tree.chunk(number).size
        if room < 0 or opened.cache.full:
            return
        yield number


def _files(tree: Index, paths: list[str]) -> Iterator[int]:
    from zerofs.cli import entries
    from zerofs.prefetch.survey import files_below

    for path in paths or ["/"]:
        yield from files_below(tree, entries.find(tree, output.path_argument(path)))


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[_Opened]:
    """The tree, the cache and what leads to the chunks: those of a mount, or of a flist and ``--cache``."""
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.cache.size import bound_of, parse_cache_free
    from zerofs.flist.load import load_flist, load_layers
    from zerofs.store.build import build_router

    flists, local_router, storage_url = _source(args)
    state = args.cache / "flists"
    loaded = [load_flist(each, state, max_size=args.max_flist_size) for each in flists]
    tree = load_layers([flist.index for flist in loaded], state)
    with ExitStack() as stack:
        cache = ChunkCache(
            args.cache,
            size_limit=bound_of(args.cache_size, args.cache),
            free_limit=parse_cache_free(None, args.cache),
        )
        stack.callback(cache.close)
        router = build_router(
            local_router,
            [(flist.argument, flist.router) for flist in loaded if flist.router is not None],
            [route for flist in loaded for route in flist.routes],
            storage_url,
        )
        stack.callback(router.close)
        yield _Opened(tree, cache, router)


def _source(args: argparse.Namespace) -> tuple[list[str], Path | None, str | None]:
    """The flists, the local router and the store of last resort; sets what a mount decides."""
    from zerofs.cli import served

    # a mount's profile stays with the flists that it began with
    mounted = None if "://" in args.source else served.options_of(Path(args.source), swapped=not args.profile)
    if mounted is None:
        if args.cache is None:
            raise UsageError(
                f"no --cache given, and {args.source} is no mount of a flist, which would have one",
                hint="name the cache of the mounts to come: --cache DIR",
            )
        return [args.source], args.local_router, options.storage_url(args)
    if not mounted.meta:
        raise UsageError(f"{args.source}: no flist is mounted there", hint="name a flist")
    args.cache = mounted.cache
    args.allow_unverified |= mounted.allow_unverified
    args.max_flist_size = args.max_flist_size or mounted.max_flist_size
    return (
        list(mounted.meta),
        args.local_router or mounted.local_router,
        options.storage_url(args) or last_resort(mounted.storage_url),
    )


def _report(args: argparse.Namespace, found: Survey, **done: int) -> int:
    """Say what is there; the exit status."""
    if args.json:
        output.say_json(
            {
                "files": found.files,
                "files_cached": found.files_here,
                "chunks": found.chunks,
                "chunks_cached": found.chunks_here,
                "bytes": found.size,
                "bytes_cached": found.size_here,
                "complete": found.complete,
                **done,
            }
        )
    else:
        files = f"{found.files_here:,} of {found.files:,} files, " if found.files else ""
        output.say(
            f"{files}{found.chunks_here:,} of {found.chunks:,} chunks, "
            f"{output.size(found.size_here)} of {output.size(found.size)} are in the cache"
        )
    return 0 if found.complete else 1
