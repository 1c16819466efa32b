"""Options that several commands share, and what they open.

Passwords need not stand in the command line, which every user of the host can read: an option that takes
a store URL also takes ``@FILE``, a file with one URL a line, and has an environment variable.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zerofs.cli.parser import path
from zerofs.errors import CacheError, UsageError
from zerofs.interruption import interruptible, uninterrupted
from zerofs.sizes import parse_size
from zerofs.store.given import STORAGE_VARIABLE, last_resort, urls_in

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.flist.load import LoadedFlist
    from zerofs.pack.contents import Contents
    from zerofs.store.ranged import RangedStore
    from zerofs.store.router import Router

STORE_VARIABLE = "ZEROFS_STORE"  # URLs for --store and --to, separated by blanks
TIMEOUT = 120.0  # seconds


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_flist(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("flist", metavar="FLIST", help="file, unpacked directory or URL")


def add_flist_options(
    parser: argparse.ArgumentParser,
    cache: str = "keep the compiled index there, as a mount with --cache does",
) -> None:
    """For a command that reads a flist; `cache` says what else a cache is for."""
    parser.add_argument("--cache", type=path, metavar="DIR", help=cache)
    add_max_flist_size(parser)


def add_max_flist_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-flist-size",
        type=parse_size,
        metavar="SIZE",
        help="refuse flists that unpack to more (default 16G)",
    )


def add_storage_options(parser: argparse.ArgumentParser) -> None:
    """For a command that reads the chunks of a flist."""
    parser.add_argument(
        "--storage-url",
        metavar="URL",
        help=f"last-resort store, or @FILE that holds its URL; environment: {STORAGE_VARIABLE}",
    )
    parser.add_argument(
        "--local-router", type=path, metavar="FILE", help="router.yaml laid over that of the flist"
    )
    parser.add_argument(
        "--allow-unverified", action="store_true", help="take chunks that nothing can be checked against"
    )
    add_timeout(parser, "a batch of chunks")


def add_source(parser: argparse.ArgumentParser) -> None:
    """For a command that reads chunks of a flist as they are stored."""
    parser.add_argument(
        "--from", dest="storage_url", metavar="URL", help="where the chunks are (default: the flist's router)"
    )
    parser.add_argument(
        "--local-router", type=path, metavar="FILE", help="router.yaml laid over that of the flist"
    )


def source_of(args: argparse.Namespace, flist: LoadedFlist) -> LoadedFlist:
    """The flist as its chunks are to be found: without its own router where ``--from`` says where."""
    return flist.without_stores() if args.storage_url else flist


def add_timeout(parser: argparse.ArgumentParser, subject: str) -> None:
    parser.add_argument(
        "--timeout",
        type=positive_number,
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"the longest to wait for {subject} (default {TIMEOUT:.0f})",
    )


def add_jobs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--jobs", "-j", type=positive_integer, metavar="N", help="threads (default: by the cores)"
    )


def jobs(args: argparse.Namespace) -> int:
    """The threads that were asked for, or as many as suit this machine."""
    from zerofs.pack.pool import default_workers

    number: int = args.jobs or default_workers()
    return number


@contextmanager
def opened_flists(args: argparse.Namespace, arguments: Sequence[str]) -> Iterator[list[LoadedFlist]]:
    """The flists named by `arguments`, compiled below ``--cache`` or in a temporary directory.

    Raises FlistError.
    """
    from zerofs.flist.load import load_flist

    with _state(args.cache) as state:
        yield [load_flist(argument, state, max_size=args.max_flist_size) for argument in arguments]


@contextmanager
def opened_flist(args: argparse.Namespace) -> Iterator[LoadedFlist]:
    """The flist ``args.flist``; see :func:`opened_flists`."""
    with opened_flists(args, [args.flist]) as (flist,):
        yield flist


@contextmanager
def opened_router(args: argparse.Namespace, flist: LoadedFlist) -> Iterator[Router]:
    """What leads to the chunks of `flist`, as for a mount.  Raises StoreConfigError."""
    from zerofs.store.build import build_router

    routers = [(flist.argument, flist.router)] if flist.router is not None else []
    router = build_router(args.local_router, routers, flist.routes, storage_url(args))
    try:
        yield router
    finally:
        router.close()


@contextmanager
def opened_contents(args: argparse.Namespace, flist: LoadedFlist) -> Iterator[Contents]:
    """What reads the chunks of `flist`, through the cache where one is given.

    Raises StoreConfigError, CacheError.
    """
    from zerofs.pack.contents import Contents

    with ExitStack() as stack:
        router = stack.enter_context(opened_router(args, flist))
        cache = stack.enter_context(_opened_cache(args.cache)) if args.cache is not None else None
        yield Contents(router, cache, timeout=args.timeout, allow_unverified=args.allow_unverified)


def storage_url(args: argparse.Namespace) -> str | None:
    """``--storage-url``, or its file, or its variable."""
    return last_resort(args.storage_url)


def ranged_stores(given: Sequence[str] | None, option: str) -> list[RangedStore]:
    """``[RANGE=]URL`` arguments, the lines of each ``@FILE`` in its place; or those of the variable.

    Raises UsageError where there are none, StoreConfigError for one that makes no sense.
    """
    from zerofs.store.ranged import parse_ranged_store

    arguments = list(given or os.environ.get(STORE_VARIABLE, "").split())
    if not arguments:
        raise UsageError(f"no {option} given", hint=f"{option} dir:///path, or set {STORE_VARIABLE}")
    return [
        parse_ranged_store(text)
        for argument in arguments
        for text in (urls_in(Path(argument[1:])) if argument.startswith("@") else [argument])
    ]


def positive_integer(text: str) -> int:
    """What argparse makes of a count; raises ArgumentTypeError."""
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return int(text)


def positive_number(text: str) -> float:
    """What argparse makes of seconds; raises ArgumentTypeError."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _opened_cache(directory: Path) -> ChunkCache:
    from zerofs.cache.lmdb import ChunkCache
    from zerofs.cache.size import parse_cache_free

    return ChunkCache(directory, size_limit=None, free_limit=parse_cache_free(None, directory))


def add_cache(parser: argparse.ArgumentParser) -> None:
    """For a command about a cache that is there."""
    parser.add_argument("--cache", type=path, metavar="DIR", required=True, help="the cache directory")


def existing_cache(directory: Path) -> ChunkCache:
    """The cache in `directory` as it is.  Raises CacheError where there is none."""
    if not (directory / "data.mdb").exists():
        raise CacheError(f"there is no cache in {directory}", hint="name the --cache of a mount")
    return _opened_cache(directory)


@contextmanager
def _state(cache: Path | None) -> Iterator[Path]:
    with interruptible():
        if cache is not None:
            yield cache / "flists"
            return
        with uninterrupted():
            directory = tempfile.TemporaryDirectory(prefix="zerofs-")
        try:
            yield Path(directory.name)
        finally:
            with uninterrupted():
                directory.cleanup()
