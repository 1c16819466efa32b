"""`zerofs gc`: free what a cache need not hold; it only says what it would do, unless told to do it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output
from zerofs.errors import CacheError
from zerofs.interruption import interruptible
from zerofs.sizes import parse_size

if TYPE_CHECKING:
    from zerofs.cache.lmdb import ChunkCache

EPILOG = """\
examples:
  zerofs gc --cache /var/cache/zerofs                            what could be freed
  zerofs gc --cache /var/cache/zerofs --force                    files of no use go
  zerofs gc --cache /var/cache/zerofs --to 2G --force            chunks go as well, down to 2 GiB
  zerofs gc --cache /var/cache/zerofs --unreferenced --force     chunks of flists that it does not know

Files of no use: compiled indexes of other versions, temporary files of processes that were killed, caches that
were set aside.  The least recently used chunks go first, those of live mounts last, those of pinned flists not at all.
The file itself gets smaller where nobody has the cache open.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_cache(parser)
    parser.add_argument("--to", metavar="SIZE", type=parse_size, help="evict chunks until they take SIZE")
    parser.add_argument("--unreferenced", action="store_true", help="drop chunks that no known flist names")
    parser.add_argument("--force", action="store_true", help="do it")
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    with interruptible():
        with options.existing_cache(args.cache) as cache:
            value = {**_unreferenced(args, cache), **_evict(args, cache)}
        value |= _litter(args)
        chunks_go = args.to is not None or args.unreferenced
        value["file_freed"] = _give_back(args) if args.force and chunks_go else None
    if args.json:
        output.say_json({"done": args.force, **value})
    else:
        _say(args, value)
    if args.force and args.to is not None and value["left"] > args.to:
        raise CacheError("what is pinned takes more than that", hint="zerofs unpin")
    return 0


def _unreferenced(args: argparse.Namespace, cache: ChunkCache) -> dict[str, Any]:
    from zerofs.cache.inventory import known_names

    if not args.unreferenced:
        return {"unreferenced": 0, "unreferenced_bytes": 0}
    known = known_names(args.cache / "flists")
    found = [(name, size) for name, size in cache.entries() if name not in known]
    if args.force:
        cache.drop_many(name for name, _ in found)
    return {"unreferenced": len(found), "unreferenced_bytes": sum(size for _, size in found)}


def _evict(args: argparse.Namespace, cache: ChunkCache) -> dict[str, Any]:
    """Evict, or say how much would go."""
    before = cache.stats()
    left = before.used
    if args.to is not None:
        left = cache.shrink(args.to) if args.force else min(left, args.to)
    return {"used": before.used, "left": left, "evicted": cache.stats().evicted}


def _litter(args: argparse.Namespace) -> dict[str, Any]:
    from zerofs.cache.inventory import litter, remove

    found = litter(args.cache)
    gone = [each for each in found if not args.force or remove(each)]
    return {
        "files": [{"path": str(each.path), "kind": each.kind, "bytes": each.size} for each in gone],
        "files_bytes": sum(each.size for each in gone),
    }


def _give_back(args: argparse.Namespace) -> int | None:
    from zerofs.cache.environment import give_back

    return give_back(args.cache)


def _say(args: argparse.Namespace, value: dict[str, Any]) -> None:
    verb = "freed" if args.force else "would free"
    size = output.size
    for file in value["files"]:
        output.say(f"{verb} {size(file['bytes'])}: {file['path']}")
    if args.unreferenced:
        what = f"{value['unreferenced']:,} chunks that no known flist names"
        output.say(f"{verb} {size(value['unreferenced_bytes'])}: {what}")
    if args.to is not None:
        output.say(f"{verb} {size(value['used'] - value['left'])}: chunks, {size(value['left'])} are left")
    if value["file_freed"] is not None:
        output.say(f"the file is smaller by {size(value['file_freed'])}")
    elif args.force and (args.to is not None or args.unreferenced):
        output.say("the file stays as large as it is while the cache is in use; new chunks take the place")
    if not args.force:
        output.say("nothing was changed; --force does it")
