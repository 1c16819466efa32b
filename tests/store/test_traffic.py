"""What each destination was asked and gave, counted over real stores."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.store.routing import CHUNKS, IDS, Reader, corrupted, router_of
from tests.support.golden import load_directory
from tests.support.redisserver import RedisServer, free_port

HALF = IDS[: len(IDS) // 2]


def pools(*urls: str) -> str:
    lines = "".join(f"  p{n}:\n    00:ff: {url}\n" for n, url in enumerate(urls))
    return f"pools:\n{lines}lookup: [{', '.join(f'p{n}' for n in range(len(urls)))}]\n"


def test_bytes_and_misses_by_store(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    first = redis_server(password="sesame")
    first.load([(chunk_id, CHUNKS[chunk_id]) for chunk_id in HALF])
    (tmp_path / "store").mkdir()
    load_directory(tmp_path / "store", CHUNKS.items())
    router = router_of(pools(first.url, f"dir://{tmp_path}/store"))
    assert len(Reader().read(router).got) == len(IDS)
    near, far = router.stats()
    assert "sesame" not in repr(near) and str(first.port) in str(near["store"])
    assert near["chunks"] == len(HALF) and near["missing"] == len(IDS) - len(HALF)
    assert near["bytes"] == sum(len(CHUNKS[chunk_id]) for chunk_id in HALF)
    assert far["chunks"] == len(IDS) - len(HALF) and far["missing"] == 0
    for store in (near, far):
        latency: Any = store["latency"]
        assert store["state"] == "good" and store["errors"] == store["retries"] == store["rejected"] == 0
        assert latency["count"] == store["requests"] == 1 and 0 < latency["p50"] <= latency["max"]
    router.close()


def test_errors_retries_and_damage(redis_server: Callable[..., RedisServer]) -> None:
    port = free_port()
    damaged = redis_server()
    damaged.load([(IDS[0], corrupted(IDS[0]))])
    router = router_of(pools(f"redis://127.0.0.1:{port}", damaged.url))
    assert len(Reader([IDS[0]]).read(router, seconds=1.0).failed) == 1
    gone, other = router.stats()
    assert gone["chunks"] == gone["bytes"] == 0 and gone["state"] != "good"
    assert gone["errors"] == gone["requests"] and gone["retries"] == int(str(gone["requests"])) - 1 > 0
    assert other["rejected"] == other["chunks"] == 1 and other["retries"] == 0
    router.close()


def test_what_is_written_back(redis_server: Callable[..., RedisServer], tmp_path: Path) -> None:
    cache = redis_server()
    (tmp_path / "store").mkdir()
    load_directory(tmp_path / "store", CHUNKS.items())
    router = router_of(pools(cache.url, f"dir://{tmp_path}/store") + "cache: [p0]\n")
    Reader().read(router)
    assert router.drain(10)
    near = router.stats()[0]
    assert near["written"] == len(IDS) and near["written_bytes"] == sum(map(len, CHUNKS.values()))
    assert near["missing"] == len(IDS)
    router.close()
