"""`zerofs pin` and `zerofs unpin`: which flists stay in a cache, whatever else comes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zerofs.cli import options, output
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.flist.load import LoadedFlist

EPILOG = """\
examples:
  zerofs pin --cache /var/cache/zerofs base.flist         its chunks are not evicted any more
  zerofs warmup --cache /var/cache/zerofs --all base.flist
  zerofs unpin --cache /var/cache/zerofs base.flist
  zerofs unpin --cache /var/cache/zerofs CONTENT-HASH     where the flist is gone; zerofs df shows it

A pin fetches nothing: it keeps what is in the cache and what comes.  It belongs to the content of the flist.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("flists", metavar="FLIST", nargs="+", help="file, unpacked directory or URL")
    options.add_cache(parser)
    options.add_max_flist_size(parser)
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    from zerofs.cache.pins import pin, unpin

    output.set_up(debug=args.debug)
    state = args.cache / "flists"
    done = []
    with interruptible():
        for argument in args.flists:
            content, flist = _content(args, argument)
            if args.command == "pin":
                changed = pin(state, content, argument if flist is None else flist.argument)
            else:
                changed = unpin(state, content)
            done.append({"flist": argument, "content_hash": content, "changed": changed})
    if args.json:
        output.say_json(done)
        return 0
    for each in done:
        state_now = "pinned" if args.command == "pin" else "not pinned"
        output.say(f"{each['flist']}: {state_now}{'' if each['changed'] else ' already'}")
    return 0


def _content(args: argparse.Namespace, argument: str) -> tuple[str, LoadedFlist | None]:
    """The content hash that `argument` is or leads to."""
    from zerofs.cache.pins import pinned
    from zerofs.flist.load import load_flist

    state = args.cache / "flists"
    if args.command == "unpin" and argument in {pin.content for pin in pinned(state)}:
        return argument, None
    flist = load_flist(argument, state, max_size=args.max_flist_size)
    return flist.index.content_hash.hex(), flist
