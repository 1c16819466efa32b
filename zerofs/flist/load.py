"""From a flist argument to a mapped index, by the shortest way.

State lives in one directory, ``flists`` beside the chunk cache, shared by all mounts:

- ``<content hash>.index-<version>``: compiled indexes;
- ``<digest>.json``: what a digest of the database's bytes led to: the content hash, the router and
  the routes that came with it, and the owners that were resolved on this host;
- ``<content hash>.pin``: its chunks stay in the cache (see `zerofs.cache.pins`);
- ``<content hash>.profile``: what mounts of it want first (see `zerofs.prefetch.profile`);
- ``seen-<nn>.json``: a digest, and what its files looked like; 256 of them at the most;
- ``url-<hash>.json``: the digest of what a URL held when it was fetched last.

So a flist that was unpacked anew, or fetched anew, maps the index that is already there after one
pass over its bytes, and one that lies where it lay does so without.  A URL whose server cannot be reached
leads to the index that it led to before: a host starts again without its registry.  Every file is written under a
temporary name and renamed: mounts that start at the same moment may do the work twice, and then agree.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerofs import private
from zerofs.errors import CacheError, FlistCorruptError, FlistUnreachableError, reason_of
from zerofs.flist.index import VERSION, Index, write_index
from zerofs.flist.model import FlistReader, Route

if TYPE_CHECKING:
    from zerofs.flist.source import FlistSource

log = logging.getLogger(__name__)

_MEMO_VERSION = 1
_DIGEST_SIZE = 32  # bytes
_URLS = ("http://", "https://")
_PATIENCE = 5.0  # seconds for the server of a URL, where what it held is known


class LoadedFlist:
    """A flist, ready to be mounted."""

    def __init__(
        self, argument: str, form: str, index: Index, router: bytes | None, routes: tuple[Route, ...]
    ) -> None:
        self.argument = argument  # as the user named it
        self.format = form  # "rocksdb", "sqlite", "fl"
        self.index = index
        self.router = router  # the text of its router.yaml
        self.routes = routes

    def without_stores(self) -> LoadedFlist:
        """The same, saying nothing about where its chunks are."""
        return LoadedFlist(self.argument, self.format, self.index, None, ())


def load_flist(argument: str, state: Path, *, max_size: int | None = None) -> LoadedFlist:
    """Map the index of the flist `argument` (a path or URL), compiling it first where `state` lacks it.

    `max_size` bounds the unpacked flist, in bytes.  Raises FlistError, or CacheError where `state` cannot
    be written.
    """
    prepare_state(state)
    if not argument.lower().startswith(_URLS):
        return _load(argument, state, max_size)
    patience = _PATIENCE if _url_slot(argument, state).exists() else None
    try:
        return _load(argument, state, max_size, patience=patience)
    except FlistUnreachableError as error:
        known = _last_of_url(argument, state)
        if known is None:
            raise
        log.warning("%s; what was there when it was fetched last is mounted", error)
        return known


def _load(argument: str, state: Path, max_size: int | None, *, patience: float | None = None) -> LoadedFlist:
    from zerofs.flist.source import DEFAULT_MAX_SIZE, open_source

    bound = DEFAULT_MAX_SIZE if max_size is None else max_size
    with open_source(argument, workdir=state, max_size=bound, patience=patience) as source:
        digest = _digest(source, state)
        memo_path = state / f"{digest.hex()}.json"
        memo = _read_memo(memo_path)
        index = _mapped(state, memo["content"]) if memo is not None else None
        if memo is None or index is None:
            memo, index = _compile(source, state)
            _replace(memo_path, memo)
        if argument.lower().startswith(_URLS):
            _replace(_url_slot(argument, state), {"identity": source.display, "digest": digest.hex()})
        return _loaded(argument, memo, index)


def _loaded(argument: str, memo: dict[str, Any], index: Index) -> LoadedFlist:
    router = memo["router"]
    return LoadedFlist(
        argument,
        memo["format"],
        index,
        None if router is None else router.encode("utf-8", "surrogateescape"),
        tuple(Route(*route) for route in memo["routes"]),
    )


def _last_of_url(argument: str, state: Path) -> LoadedFlist | None:
    """What the URL held when it was fetched last, if its index is still there."""
    from zerofs.flist.download import displayed

    digest = _seen(_url_slot(argument, state), displayed(argument))
    memo = None if digest is None else _read_memo(state / f"{digest.hex()}.json")
    index = None if memo is None else _mapped(state, memo["content"])
    return None if memo is None or index is None else _loaded(argument, memo, index)


def _url_slot(argument: str, state: Path) -> Path:
    """Where the last digest of a URL is remembered; the same with any password."""
    import hashlib

    from zerofs.flist.download import displayed

    name = hashlib.blake2b(os.fsencode(displayed(argument)), digest_size=16).hexdigest()
    return state / f"url-{name}.json"


def load_layers(indexes: Sequence[Index], state: Path) -> Index:
    """The index of several flists over each other, the last on top; of one it is its own.

    Raises ValueError where there is none.
    """
    if not indexes:
        raise ValueError("no flist to lay out")
    if len(indexes) == 1:
        return indexes[0]
    import hashlib

    from zerofs.flist.layers import LayeredReader

    digest = hashlib.blake2b(
        b"".join(index.content_hash for index in indexes), digest_size=32, person=b"layers"
    )
    memo_path = state / f"{digest.hexdigest()}.json"
    memo = _read_memo(memo_path)
    index = _mapped(state, memo["content"]) if memo is not None else None
    if index is None:
        index = _build(LayeredReader(indexes), state)
        _replace(memo_path, _memo(index, "layers", None, (), {}))
    return index


def profile_path(state: Path, content_hash: bytes) -> Path:
    """Where the access profile of the flist with this content lies, if there is one."""
    return state / f"{content_hash.hex()}.profile"


def open_index_file(index: Index, state: Path) -> int:
    """A descriptor of the file that holds `index`, or of a copy in memory where that has lost its name."""
    if index.descriptor is not None:
        return os.dup(index.descriptor)
    try:
        return os.open(index_path(state, index.content_hash.hex()), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        copy = Index.anonymous(index.sections()).descriptor
        assert copy is not None
        return os.dup(copy)


def prepare_state(state: Path) -> None:
    """Make the directory of indexes; CacheError where that cannot be.

    Somebody else's is refused: an index is checked when it is mapped, and could be changed after that.
    """
    try:
        state.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        state.mkdir(mode=0o700, exist_ok=True)
        reason = private.objection(state.lstat()) or private.objection_to_parent(state.parent.stat())
    except OSError as error:
        reason = error.strerror
    if reason:
        raise CacheError(
            f"cannot use {state} for indexes: {reason}", hint="give another directory with --cache"
        )


def _digest(source: FlistSource, state: Path) -> bytes:
    """The digest of `source`, without reading it where it looks as it did when it was read."""
    identity = source.identity()
    if identity is None:
        return source.digest
    slot = state / f"seen-{zlib.crc32(os.fsencode(identity)) & 0xFF:02x}.json"
    digest = _seen(slot, identity)
    if digest is None:
        digest = source.digest
        _replace(slot, {"identity": identity, "digest": digest.hex()})
    return digest


def _seen(slot: Path, identity: str) -> bytes | None:
    """The digest that is remembered for `identity`; what cannot be read is as good as nothing."""
    try:
        seen = json.loads(slot.read_bytes())
        digest = bytes.fromhex(seen["digest"])
        return digest if seen["identity"] == identity and len(digest) == _DIGEST_SIZE else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _compile(source: FlistSource, state: Path) -> tuple[dict[str, Any], Index]:
    router = source.router
    reader = source.reader()
    try:
        index = _build(reader, state)
        _keep_profile(source.profile, profile_path(state, index.content_hash))
        return _memo(index, reader.format, router, tuple(reader.routes()), reader.names), index
    finally:
        reader.close()


def _keep_profile(shipped: bytes | None, path: Path) -> None:
    """Begin with the access profile that came with a flist, unless there is one of this host."""
    if shipped is not None and not path.exists():
        try:
            write_atomically(shipped, path)
        except OSError as error:
            log.info("cannot keep the access profile of a flist: %s", reason_of(error))


def _build(reader: FlistReader, state: Path) -> Index:
    from zerofs.flist.compile import compile_flist

    tables = compile_flist(reader)
    content = tables.content_hash()
    path = index_path(state, content.hex())
    try:
        write_index(tables, path, content)
        del tables  # the map takes their place; both at once would be twice the memory
        return Index.open(path)
    except OSError as error:
        log.warning("cannot keep the compiled index (%s): it is compiled again next time", reason_of(error))
        return Index.anonymous(compile_flist(reader))


def _mapped(state: Path, content: str) -> Index | None:
    try:
        return Index.open(index_path(state, content))
    except FileNotFoundError:
        return None
    except (OSError, FlistCorruptError) as error:
        log.warning("%s; compiling it anew", error)
        return None


def index_path(state: Path, content: str) -> Path:
    """Where the compiled index of the flist with this content hash (hexadecimal digits) lies, if it is there."""
    return state / f"{content}.index-{VERSION}"


def _memo(
    index: Index, form: str, router: bytes | None, routes: Sequence[Route], names: dict[str, int]
) -> dict[str, Any]:
    return {
        "version": _MEMO_VERSION,
        "content": index.content_hash.hex(),
        "format": form,
        "router": None if router is None else router.decode("utf-8", "surrogateescape"),
        "routes": [list(route) for route in routes],
        "owners": names,
    }


def _read_memo(path: Path) -> dict[str, Any] | None:
    """What is remembered under `path`, where it still holds on this host."""
    try:
        memo = json.loads(path.read_bytes())
        if memo["version"] != _MEMO_VERSION or len(bytes.fromhex(memo["content"])) != 32:
            return None
        routes = [Route(int(start), int(end), str(url)) for start, end, url in memo["routes"]]
        if not isinstance(memo["router"], str | None) or not isinstance(memo["format"], str):
            return None
        owners = {str(name): int(number) for name, number in memo["owners"].items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        log.warning("%s: cannot be read (%s); compiling anew", path, reason_of(error))
        return None
    if owners:
        from zerofs.flist.owners import resolve

        if any(resolve(name) != number for name, number in owners.items()):
            return None  # an owner that the flist names by its name has another number now
    return {**memo, "routes": routes}


def _replace(path: Path, memo: dict[str, Any]) -> None:
    """Write a file of the state atomically; without it the next mount takes longer, and that is all."""
    try:
        write_atomically(json.dumps(memo).encode(), path)
    except OSError as error:
        log.warning("cannot remember the index of a flist: %s", reason_of(error))


def write_atomically(data: bytes, path: Path) -> None:
    """Write a file of the state, whole or not at all.  Raises OSError."""
    import tempfile

    descriptor, name = tempfile.mkstemp(prefix=".memo-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(name).rename(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
