from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.store.conftest import must_end, within
from tests.store.test_redis_store import Start, store_at
from tests.support.redisserver import free_port
from zerofs.errors import StoreConfigError, StoreReadOnlyError, StoreUnreachableError
from zerofs.store import ranged
from zerofs.store.ranged import RangedStores, parse_ranged_store
from zerofs.store.ranges import EVERYTHING, IdRange
from zerofs.store.routerfile import parse_router

ITEMS = [(bytes([number]) + b"\xff" * 31, b"chunk %d" % number) for number in range(256)]
IDS = [chunk_id for chunk_id, _ in ITEMS]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("redis://a", EVERYTHING),
        ("00-7f=redis://a", IdRange("00", "7f")),
        ("00:7F=redis://a", IdRange("00", "7f")),
        ("8=redis://a", IdRange("8", "8")),
        ("redis://p=q@a", EVERYTHING),
        ("0-f=redis://p=q@a", EVERYTHING),
    ],
)
def test_a_store_and_its_range(text: str, ids: IdRange) -> None:
    store = parse_ranged_store(text)
    assert store.ids == ids and store.url.host == "a"


@pytest.mark.parametrize(
    "text", ["zz=redis://hunter2@a", "7f-00=redis://hunter2@a", "0-ff=redis://a", "=redis://a"]
)
def test_a_bad_range(text: str) -> None:
    with pytest.raises(StoreConfigError, match="range") as caught:
        parse_ranged_store(text)
    assert "hunter2" not in str(caught.value)


def test_every_matching_store_gets_the_chunk(tmp_path: Path, redis_server: Start) -> None:
    server = redis_server()
    texts = [f"00-7f={server.url}", f"80-ff=dir://{tmp_path}/b", f"40-bf=dir://{tmp_path}/c"]
    stores = RangedStores([parse_ranged_store(text) for text in texts])
    assert stores.missing([*IDS, IDS[0]]) == IDS
    stores.put_many(ITEMS[:250])
    assert stores.missing(IDS) == IDS[250:]
    stores.put_many(ITEMS)
    assert stores.missing(IDS) == []
    for text, held in zip(texts, (IDS[:0x80], IDS[0x80:], IDS[0x40:0xC0]), strict=True):
        there = store_at(text.partition("=")[2]).exists_many(IDS, within())
        assert [chunk_id for chunk_id, found in zip(IDS, there, strict=True) if found] == held
    stores.close()


def test_what_one_of_two_replicas_lacks_is_missing(tmp_path: Path) -> None:
    stores = RangedStores([parse_ranged_store(f"dir://{tmp_path}/{name}") for name in "ab"])
    store_at(f"dir://{tmp_path}/a").put_many(ITEMS, within())
    assert stores.missing(IDS) == IDS


@pytest.mark.parametrize(
    ("texts", "gap"),
    [(["00-7f=redis://a"], "80 to ff"), ([], "0 to f"), (["0-3=redis://a", "5-f=redis://a"], "4")],
)
def test_ids_without_a_store_are_told_beforehand(texts: list[str], gap: str) -> None:
    with pytest.raises(StoreConfigError, match=gap):
        RangedStores([parse_ranged_store(text) for text in texts])


def test_a_web_server_is_refused_beforehand() -> None:
    with pytest.raises(StoreReadOnlyError):
        RangedStores([parse_ranged_store("http://a/chunks")])


def test_the_router_that_a_flist_carries() -> None:
    texts = [
        "00-7f=redis://hunter2@a",
        "80-ff=zdb://:hunter2@b/ns",
        "redis://u:hunter2@c",
        "0-f=dir:///d%20d",
    ]
    stores = RangedStores([parse_ranged_store(text) for text in texts])
    text = stores.router_yaml('odd "name": x')
    assert b"hunter2" not in text
    router = parse_router(text, "flist")
    (pool,) = router.pools.values()
    assert router.lookup == ('odd "name": x',) and router.cache == ()
    assert [(str(ids), url.display) for ids, url in pool] == [
        ("00:7f", "redis://a:6379"),
        ("80:ff", "zdb://b:9900/ns"),
        ("0:f", "redis://c:6379"),
        ("00:ff", "dir:///d%20d"),
    ]


def test_who_waits_is_told_once_and_a_store_that_never_answers_is_known_soon(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ranged, "FIRST_PATIENCE", 0.5)
    urls = [f"redis://bob:hunter2@127.0.0.1:{free_port()}" for _ in range(2)]
    stores = RangedStores([parse_ranged_store(url) for url in urls], timeout=1000)
    with pytest.raises(StoreUnreachableError):
        must_end(stores.check)
    (line,) = (each.getMessage() for each in caplog.records)
    assert "Connection refused; trying again, for 0 s" in line and "hunter2" not in line


def test_connection_trouble_is_tried_again_until_the_time_is_up(redis_server: Start) -> None:
    stores = RangedStores([parse_ranged_store(f"redis://127.0.0.1:{free_port()}")], timeout=0.3)
    with pytest.raises(StoreUnreachableError):
        must_end(lambda: stores.missing(IDS))
    server = redis_server()
    server.stop()
    stores = RangedStores([parse_ranged_store(server.url)], timeout=30)
    putting = threading.Thread(target=stores.put_many, args=(ITEMS,))
    putting.start()
    server.start()
    putting.join(60)
    assert server.dump() == dict(ITEMS)
