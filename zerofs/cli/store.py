"""`zerofs store`: what concerns the chunks alone: `store copy`, and `store check` in a module of its own."""

from __future__ import annotations

import argparse

from zerofs.cli import options, output, storecheck
from zerofs.cli.parser import Parser
from zerofs.interruption import interruptible
from zerofs.store.given import STORAGE_VARIABLE

COPY_EPILOG = f"""\
examples:
  zerofs store copy rootfs.flist --to dir:///srv/chunks
  zerofs store copy rootfs.flist --from redis://a.example --to 00-7f=zdb://b.example --to 80-ff=zdb://c.example

The destination is asked first what it has.  Without --from the flist's own router leads to the chunks.
To keep passwords off the command line give --from @FILE and --to @FILE, one URL a line, or set
{STORAGE_VARIABLE} and {options.STORE_VARIABLE}.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)
    summary = "copy the chunks of a flist from one store to another"
    copy = actions.add_parser("copy", help=summary, description=summary, epilog=COPY_EPILOG)
    copy.add_argument("--debug", action="store_true", help="log more, show an error's traceback")
    options.add_flist(copy)
    options.add_source(copy)
    copy.add_argument(
        "--to", action="append", metavar="[RANGE=]URL", help="where they go; may appear many times"
    )
    copy.add_argument(
        "--no-verify", action="store_true", help="copy what the source gives, without decoding it"
    )
    options.add_flist_options(copy)
    options.add_timeout(copy, "a batch of chunks")
    options.add_jobs(copy)
    options.add_json(copy)
    summary = "read every chunk of a flist where a mount would, and say what is lacking"
    check = actions.add_parser("check", help=summary, description=summary, epilog=storecheck.EPILOG)
    check.add_argument("--debug", action="store_true", help="log more, show an error's traceback")
    storecheck.configure(check)


def run(args: argparse.Namespace) -> int:
    return storecheck.run(args) if args.action == "check" else _copy(args)


def _copy(args: argparse.Namespace) -> int:
    from zerofs.cli.progress import shown_progress
    from zerofs.pack.copy import copy_chunks
    from zerofs.store.ranged import RangedStores

    output.set_up(debug=args.debug)
    destination = RangedStores(options.ranged_stores(args.to, "--to"), timeout=args.timeout)
    with (
        interruptible(),
        options.opened_flist(args) as flist,
        options.opened_router(args, options.source_of(args, flist)) as router,
        shown_progress("copying", silent=args.json, unit="chunks") as progress,
    ):
        copied = copy_chunks(
            flist.index,
            router,
            destination,
            progress,
            workers=options.jobs(args),
            timeout=args.timeout,
            verify=not args.no_verify,
        )
    if args.json:
        output.say_json(
            {
                "chunks": copied.chunks,
                "bytes": copied.size,
                "present": copied.present,
                "sent": copied.sent,
                "sent_payload_bytes": copied.sent_size,
            }
        )
    else:
        output.say(
            f"{copied.chunks:,} chunks ({output.size(copied.size)}): {copied.sent:,} sent "
            f"({output.size(copied.sent_size)} encoded), {copied.present:,} were there already"
        )
    return 0
