"""Where chunks come from: replicas, ranges, cache pools, and whose router goes first; read through real mounts."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import pytest

from tests.mount.conftest import Image, write
from tests.support.golden import load_directory
from tests.support.redisserver import RedisServer, free_port
from tests.support.sandbox import MountProcess, Sandbox
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CHUNK = 512 * 1024
CONTENT = {f"f{n:02}": random.Random(n).randbytes(1 + n * 997) for n in range(48)}
CONTENT["big"] = random.Random(99).randbytes(7 * CHUNK + 1234)

Chunks = dict[bytes, bytes]  # id as the store is asked for it → payload


class Store(Protocol):
    """A store that a test fills and looks into."""

    url: str

    def load(self, chunks: Iterable[tuple[bytes, bytes]]) -> int: ...
    def dump(self) -> Chunks: ...


class DirectoryStore:
    def __init__(self, path: Path, form: str) -> None:
        path.mkdir()
        self.url = f"dir://{path}"
        self._path, self._form = path, form

    def load(self, chunks: Iterable[tuple[bytes, bytes]]) -> int:
        return load_directory(self._path, chunks)

    def dump(self) -> Chunks:
        return chunks_in(self._path, self._form)


def chunks_in(directory: Path, form: str) -> Chunks:
    """What a ``dir`` store holds; what is being written does not count."""
    files = [path for path in directory.rglob("*") if len(path.name) >= 32 and path.is_file()]
    return {
        path.name.encode() if form == "rocksdb" else bytes.fromhex(path.name): path.read_bytes()
        for path in files
    }


@pytest.fixture(params=["rocksdb", "sqlite", "fl"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["redis", "dir"])
def new_store(
    request: pytest.FixtureRequest, sandbox: Sandbox, form: str, redis_server: Callable[..., RedisServer]
) -> Callable[[str], Store]:
    """``new_store(name)``: an empty store of either kind."""
    if request.param == "redis":
        return lambda _name: redis_server()
    return lambda name: DirectoryStore(sandbox.path / name, form)


@pytest.fixture
def image(pack: Callable[..., Image], form: str) -> Image:
    return pack("image", lambda root: [write(root / name, data) for name, data in CONTENT.items()], form)


@pytest.fixture
def chunks(image: Image, form: str) -> Chunks:
    """Every chunk of the image."""
    return chunks_in(image.store, form)


@pytest.fixture
def mount(image: Image, sandbox: Sandbox) -> Callable[..., MountProcess]:
    """``mount(router, *options)``: mounts with that text as the local router, and no other store."""

    def start(router: str | None, *options: str | Path, allow: Iterable[str] = ()) -> MountProcess:
        local = [] if router is None else ["--local-router", write(sandbox.path / "router.yaml", router)]
        cache = [] if "--cache" in options else ["--cache", sandbox.path / "cache"]
        return sandbox.mount("--ro", *cache, "--meta", image.flist, *local, *options, allow=allow)

    return start


def reads_right(mount: MountProcess) -> None:
    for name, content in CONTENT.items():
        assert (mount.target / name).read_bytes() == content, name


def spoiled(payload: bytes, number: int) -> bytes:
    """A payload that is wrong in one of several ways."""
    middle = len(payload) // 2
    return (
        payload[:middle] + bytes([payload[middle] ^ 0x10]) + payload[middle + 1 :],
        payload[:-1],
        payload + b"\0",
        bytes(len(payload)),
    )[number % 4]


def test_a_corrupt_and_an_incomplete_replica_are_one_whole(
    mount: Callable[..., MountProcess], chunks: Chunks, new_store: Callable[[str], Store], sandbox: Sandbox
) -> None:
    """What one has wrong and the other lacks is never the same chunk; and a cache pool takes what was read."""
    corrupt, incomplete = new_store("corrupt"), new_store("incomplete")
    ids = sorted(chunks)
    random.Random(5).shuffle(ids)
    wrong, missing = ids[: len(ids) // 3], ids[len(ids) // 3 : 2 * len(ids) // 3]
    corrupt.load(
        (id, spoiled(chunks[id], number) if id in wrong else chunks[id]) for number, id in enumerate(ids)
    )
    incomplete.load((id, chunks[id]) for id in ids if id not in missing)
    for cache, order in (("one", [corrupt, incomplete]), ("two", [incomplete, corrupt])):
        near = new_store(f"near-{cache}")
        # Pools are asked in this order; replicas in one pool would be in that of their speed.
        pools = "".join(f"  far{n}:\n    '00:FF': {store.url}\n" for n, store in enumerate(order))
        router = (
            f"pools:\n{pools}  near:\n    '00:FF': {near.url}\nlookup: [near, far0, far1]\ncache: [near]\n"
        )
        mounted = mount(router, "--cache", sandbox.path / cache, allow=["chunks that do not verify"])
        reads_right(mounted)
        eventually(
            lambda near=near: near.dump() == chunks, "the cache pool holds every chunk as it was stored"
        )
        assert mounted.stop() == 0
        assert ("do not verify" in mounted.log()) == (order[0] is corrupt)


def test_a_cache_pool_is_enough_afterwards(
    mount: Callable[..., MountProcess], chunks: Chunks, new_store: Callable[[str], Store], sandbox: Sandbox
) -> None:
    far, near = new_store("far"), new_store("near")
    far.load(chunks.items())
    pools = "pools: {{far: {{'00:FF': '{far}'}}, near: {{'00:FF': '{near}'}}}}\nlookup: [near, far]\ncache: [near]\n"
    mounted = mount(pools.format(far=far.url, near=near.url))
    reads_right(mounted)
    eventually(lambda: len(near.dump()) == len(chunks), "the cache pool to fill up")
    mounted.stop()
    (sandbox.path / "cache").rename(sandbox.path / "old-cache")
    gone = f"redis://127.0.0.1:{free_port()}"
    reads_right(mount(pools.format(far=gone, near=near.url)))


def test_a_cache_pool_that_is_gone_fails_no_read(
    mount: Callable[..., MountProcess], chunks: Chunks, new_store: Callable[[str], Store]
) -> None:
    far = new_store("far")
    far.load(chunks.items())
    gone = f"redis://127.0.0.1:{free_port()}"
    router = f"pools: {{far: {{'00:FF': '{far.url}'}}, near: {{'00:FF': '{gone}'}}}}\nlookup: [far]\ncache: [near]\n"
    reads_right(mount(router, allow=["not written to a cache pool", "passed over", "cannot"]))


def prefix(id: bytes) -> int:
    """The first two hex digits of an id as routers compare it."""
    text = id if len(id) == 64 else id.hex().encode()
    return int(text[:2], 16)


def test_ranges(
    mount: Callable[..., MountProcess], chunks: Chunks, new_store: Callable[[str], Store]
) -> None:
    """Each store has its range alone, and wrong bytes for all else: asked for them it would say so."""
    low, middle, high = new_store("low"), new_store("middle"), new_store("high")
    for store, first, last in ((low, 0x00, 0x3F), (middle, 0x40, 0xBF), (high, 0xC0, 0xFF)):
        store.load(
            (id, data if first <= prefix(id) <= last else spoiled(data, 0)) for id, data in chunks.items()
        )
    router = f"""
pools:
  all:
    00:3F: {low.url}
    40:bf: {middle.url}
    C:F: {high.url}
lookup: [all]
"""
    mounted = mount(router)
    reads_right(mounted)
    mounted.stop()
    assert "verif" not in mounted.log()


def test_a_range_that_nobody_has(mount: Callable[..., MountProcess], image: Image, chunks: Chunks) -> None:
    """Reads of it fail, and the log names whom one asked; all else reads right."""
    router = f"pools: {{half: {{'00:7F': 'dir://{image.store}'}}}}\nlookup: [half]\n"
    mounted = mount(router, allow=["a read failed"])
    results = []
    for name, content in CONTENT.items():
        if name == "big":
            continue
        try:
            assert (mounted.target / name).read_bytes() == content
            results.append(True)
        except OSError as error:
            assert error.errno == 5
            results.append(False)
    assert True in results and False in results


# -- whose router goes first -----------------------------------------------------------------


def flist_with_router(sandbox: Sandbox, image: Image, store: str) -> Path:
    """The image packed anew, so that its flist names `store`, which then is emptied."""
    flist = sandbox.path / "routed.flist"
    sandbox.run("zerofs", "pack", "--store", store, image.source, flist)
    return flist


@pytest.fixture
def plain_image(pack: Callable[..., Image]) -> Image:
    return pack("image", lambda root: [write(root / name, data) for name, data in CONTENT.items()])


def test_a_flist_names_its_own_stores(sandbox: Sandbox, plain_image: Image) -> None:
    flist = flist_with_router(sandbox, plain_image, f"dir://{sandbox.path}/own")
    reads_right(sandbox.mount("--ro", "--cache", sandbox.path / "cache", "--meta", flist))


def test_the_local_router_goes_before_the_flists(sandbox: Sandbox, plain_image: Image) -> None:
    """Every chunk of the flist's own store is wrong: a mount that asked it first would say so."""
    flist = flist_with_router(sandbox, plain_image, f"dir://{sandbox.path}/own")
    for path in (sandbox.path / "own").rglob("*"):
        if path.is_file():
            path.write_bytes(b"wrong")
    local = write(
        sandbox.path / "local.yaml",
        f"pools: {{own: {{'00:FF': 'dir://{plain_image.store}'}}}}\nlookup: [own]\n",
    )
    mounted = sandbox.mount(
        "--ro", "--cache", sandbox.path / "cache", "--meta", flist, "--local-router", local
    )
    reads_right(mounted)
    mounted.stop()
    assert "verif" not in mounted.log()


def test_the_flists_own_goes_on_where_the_local_router_has_nothing(
    sandbox: Sandbox, plain_image: Image
) -> None:
    flist = flist_with_router(sandbox, plain_image, f"dir://{sandbox.path}/own")
    local = write(
        sandbox.path / "local.yaml",
        f"pools: {{near: {{'00:FF': 'dir://{sandbox.directory('near')}'}}}}\nlookup: [near]\ncache: [near]\n",
    )
    mounted = sandbox.mount(
        "--ro", "--cache", sandbox.path / "cache", "--meta", flist, "--local-router", local
    )
    reads_right(mounted)
    # a pool of the local router takes what came from a pool of the flist's, whatever that one is called
    whole = chunks_in(plain_image.store, "rocksdb")
    eventually(
        lambda: chunks_in(sandbox.path / "near", "rocksdb") == whole, "the local cache pool to fill up"
    )


def test_the_storage_url_is_the_last_resort(sandbox: Sandbox, plain_image: Image) -> None:
    flist = flist_with_router(sandbox, plain_image, f"dir://{sandbox.path}/own")
    own = sorted(path for path in (sandbox.path / "own").rglob("*") if path.is_file())
    for path in own[::2]:
        path.unlink()
    last = DirectoryStore(sandbox.path / "last", "rocksdb")
    whole = chunks_in(plain_image.store, "rocksdb")
    kept = chunks_in(sandbox.path / "own", "rocksdb")
    last.load((id, b"wrong" if id in kept else data) for id, data in whole.items())
    mounted = sandbox.mount(
        "--ro", "--cache", sandbox.path / "cache", "--meta", flist, "--storage-url", last.url
    )
    reads_right(mounted)
    mounted.stop()
    assert "verif" not in mounted.log()
