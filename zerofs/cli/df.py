"""`zerofs df`: what a cache holds, and of which flists."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.cache.inventory import Known
    from zerofs.cache.lmdb import ChunkCache

EPILOG = """\
examples:
  zerofs df --cache /var/cache/zerofs
  zerofs df --cache /var/cache/zerofs --json
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    options.add_cache(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cache.inventory import known_flists, litter

    output.set_up(debug=args.debug)
    with interruptible(), options.existing_cache(args.cache) as cache:
        stats = cache.stats()
        mapped = _mapped_files()
        flists = [_flist(cache, flist, mapped) for flist in known_flists(args.cache / "flists")]
    found = litter(args.cache)
    value = {
        "directory": str(args.cache),
        "entries": stats.entries,
        "used": stats.used,
        "file": stats.file,
        "size_limit": stats.size_limit,
        "free_limit": stats.free_limit,
        "litter": len(found),
        "litter_bytes": sum(each.size for each in found),
        "flists": flists,
    }
    if args.json:
        output.say_json(value)
    else:
        _say(value)
    return 0


def _flist(cache: ChunkCache, flist: Known, mapped: set[str]) -> dict[str, Any]:
    from zerofs.chunk.codec import cache_name

    chunks = [] if flist.tree is None else [flist.tree.chunk(n) for n in range(flist.tree.chunk_count)]
    here = cache.has_many([cache_name(chunk.key) for chunk in chunks])
    return {
        "content_hash": flist.content,
        "flist": flist.flist,
        "pinned": flist.pinned,
        "mounted": any(name.startswith(flist.content) for name in mapped),
        "compiled": flist.tree is not None,
        "chunks": len(chunks),
        "chunks_cached": sum(here),
        "bytes": sum(chunk.size for chunk in chunks),
        "bytes_cached": sum(chunk.size for chunk, held in zip(chunks, here, strict=True) if held),
    }


def _mapped_files() -> set[str]:
    """The names of all files that servers of mounts have mapped, as far as this user may see them."""
    from zerofs.mount import mountinfo

    found: set[str] = set()
    for server in {mount.server for mount in mountinfo.read() if mount.server is not None}:
        try:
            lines = Path(f"/proc/{server}/maps").read_text(errors="surrogateescape").splitlines()
        except OSError:
            continue
        found.update(line.rpartition("/")[2] for line in lines if ".index-" in line)
    return found


def _say(value: dict[str, Any]) -> None:
    size = output.size
    output.say(f"{value['directory']}: {value['entries']:,} chunks, {size(value['used'])} in use")
    output.say(f"  the file has {size(value['file'])} of at most {size(value['size_limit'])}")
    output.say(f"  {size(value['free_limit'])} of the disk stay free")
    if value["litter"]:
        output.say(f"  {value['litter']} files are of no use, {size(value['litter_bytes'])}: zerofs gc")
    for flist in value["flists"]:
        marks = "".join(f", {mark}" for mark in ("pinned", "mounted") if flist[mark])
        there = f"{flist['chunks_cached']:,} of {flist['chunks']:,} chunks"
        amount = f"{size(flist['bytes_cached'])} of {size(flist['bytes'])}"
        what = f"{there}, {amount}" if flist["compiled"] else "not compiled here"
        output.say(f"{flist['content_hash']}{marks}: {what}{' ' * bool(flist['flist'])}{flist['flist']}")
