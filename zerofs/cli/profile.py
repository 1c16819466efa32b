"""`zerofs profile`: look at the access profiles of mounts, carry them elsewhere, merge and ship them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerofs.cli import options, output
from zerofs.cli.parser import Parser, path
from zerofs.errors import ProfileError, UsageError, ZerofsError
from zerofs.interruption import interruptible

if TYPE_CHECKING:
    from zerofs.flist.index import Index
    from zerofs.prefetch.profile import Profile

EPILOG = """\
examples:
  zerofs profile show --cache /var/cache/zerofs rootfs.flist     what its mounts want first
  zerofs profile export --cache /var/cache/zerofs rootfs.flist -o rootfs.profile
  zerofs profile import --cache /var/cache/zerofs rootfs.flist rootfs.profile
  zerofs profile merge monday.profile tuesday.profile -o both.profile
  zerofs profile add rootfs.flist rootfs.profile -o shipped.flist

A mount records which chunks it wants and when, unless --prefetch off; the next mount of the same flist fetches
them ahead.  A profile fits every flist with the content hash that it was recorded from, and no other.
"""
_CACHE = "the cache of the mounts, where their profiles lie"


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True, parser_class=Parser)

    def action(name: str, summary: str) -> argparse.ArgumentParser:
        examples = [line for line in EPILOG.splitlines() if line.startswith(f"  zerofs profile {name} ")]
        made = actions.add_parser(
            name, help=summary, description=summary, epilog="\n".join(["examples:", *examples])
        )
        made.add_argument("--debug", action="store_true", help="log more, show an error's traceback")
        return made

    show = action("show", "list what a profile holds, or what the mounts of a flist recorded")
    show.add_argument("subject", metavar="PROFILE|FLIST", help="a profile; or a flist, with --cache")
    options.add_flist_options(show, _CACHE)
    options.add_json(show)
    export = action("export", "write what the mounts of a flist recorded to a file")
    _add_flist(export)
    _add_output(export)
    take = action("import", "merge profiles into those of a cache")
    _add_flist(take)
    take.add_argument("profiles", metavar="PROFILE", nargs="+", type=path)
    merge = action("merge", "make one profile of several of the same flist")
    merge.add_argument("profiles", metavar="PROFILE", nargs="+", type=path)
    _add_output(merge)
    add = action("add", "ship a profile in the archive of a flist")
    add.add_argument("flist", metavar="FLIST", help="the flist's archive")
    add.add_argument("profiles", metavar="PROFILE", nargs=1, type=path)
    add.add_argument("-o", "--output", metavar="FILE", type=path, help="the flist to write (default: FLIST)")
    options.add_flist_options(add)
    options.add_json(add)


def _add_flist(parser: argparse.ArgumentParser) -> None:
    options.add_flist(parser)
    options.add_flist_options(parser, _CACHE)
    if parser.prog.endswith("import"):
        options.add_json(parser)


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=path, required=True, help="the profile to write"
    )
    options.add_json(parser)


def run(args: argparse.Namespace) -> int:
    output.set_up(debug=args.debug)
    action = {"show": _show, "export": _export, "import": _import, "merge": _merge, "add": _add}[args.action]
    with interruptible():
        profile: Profile = action(args)
    value = _summary(profile)
    if args.action == "show":
        value["entries"] = [entry._asdict() for entry in profile.entries]
    if args.json:
        output.say_json(value)
        return 0
    output.say(
        f"{value['chunks']:,} chunks, {value['recordings']} recordings, "
        f"flist {value['content_hash']}, {value['seconds']:.3f} s"
    )
    for entry in profile.entries if args.action == "show" else ():
        output.say(
            f"{entry.at / 1000:10.3f} s  {entry.wanted:4} of {profile.recordings}  chunk {entry.number}"
        )
    return 0


def _summary(profile: Profile) -> dict[str, Any]:
    return {
        "content_hash": profile.content_hash.hex(),
        "recordings": profile.recordings,
        "chunks": len(profile.entries),
        "seconds": max((entry.at for entry in profile.entries), default=0) / 1000,
    }


def _show(args: argparse.Namespace) -> Profile:
    from zerofs.prefetch.profile import MAGIC

    path = Path(args.subject)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return _read(path)
    elif args.cache is None and "://" not in args.subject and not path.exists():
        raise ProfileError(f"there is no profile {path}", hint="check the path")
    args.flist = args.subject
    return _recorded(args)


def _export(args: argparse.Namespace) -> Profile:
    profile = _recorded(args)
    _write(profile, args.output)
    return profile


def _import(args: argparse.Namespace) -> Profile:
    from zerofs.flist.load import profile_path

    _check_cache(args)
    with options.opened_flist(args) as flist:
        profiles = [_fitting(path, flist.index) for path in args.profiles]
        place = profile_path(args.cache / "flists", flist.index.content_hash)
        if place.exists():
            profiles.insert(0, _fitting(place, flist.index))
        merged = _merged(profiles)
        _write(merged, place)
    return merged


def _merge(args: argparse.Namespace) -> Profile:
    merged = _merged([_read(path) for path in args.profiles])
    _write(merged, args.output)
    return merged


def _add(args: argparse.Namespace) -> Profile:
    from zerofs.pack.shipping import add_profile
    from zerofs.prefetch.profile import encode

    with options.opened_flist(args) as flist:
        profile = _fitting(args.profiles[0], flist.index)
    add_profile(Path(args.flist), encode(profile), args.output or Path(args.flist))
    return profile


def _recorded(args: argparse.Namespace) -> Profile:
    """What the mounts with the cache of `args` recorded of its flist."""
    from zerofs.flist.load import profile_path

    _check_cache(args)
    with options.opened_flist(args) as flist:
        place = profile_path(args.cache / "flists", flist.index.content_hash)
        if not place.exists():
            raise ProfileError(
                f"no mount of {args.flist} with this cache has recorded anything", hint="mount it, and use it"
            )
        return _fitting(place, flist.index)


def _check_cache(args: argparse.Namespace) -> None:
    if args.cache is None:
        raise UsageError("no --cache given", hint="the profiles of mounts lie in their cache: --cache DIR")


def _fitting(path: Path, index: Index) -> Profile:
    from zerofs.prefetch.profile import check_fits

    profile = _read(path)
    check_fits(profile, index.content_hash, index.chunk_count, str(path))
    return profile


def _read(path: Path) -> Profile:
    from zerofs.prefetch.profile import read_profile

    try:
        return read_profile(path)
    except FileNotFoundError as error:
        raise ProfileError(f"there is no profile {path}", hint="check the path") from error


def _merged(profiles: list[Profile]) -> Profile:
    from zerofs.prefetch.merge import merged

    try:
        return merged(profiles)
    except ValueError as error:
        raise ProfileError(f"cannot merge: {error}", hint="merge profiles of one flist") from error


def _write(profile: Profile, path: Path) -> None:
    from zerofs.prefetch.profile import write_profile

    try:
        write_profile(profile, path)
    except OSError as error:
        raise ZerofsError(f"cannot write {path}: {error.strerror}", hint="check its directory") from error
