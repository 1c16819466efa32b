"""The router against a plain model of what it has to find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.store.conftest import within
from tests.store.routing import IDS
from zerofs.errors import ChunkCorruptError, ChunkMissingError, StoreRefusedError, ZerofsError
from zerofs.store import destination, latency
from zerofs.store.base import gather
from zerofs.store.layers import RouterConfig, Rule
from zerofs.store.ranges import IdRange
from zerofs.store.router import Router
from zerofs.store.url import StoreUrl, parse_store_url


class MemoryStore:
    """Holds chunks in a dict; `broken` makes it refuse everything, `state` of a chunk is what it holds."""

    def __init__(self, url: StoreUrl) -> None:
        self.display = url.display
        self.held: dict[bytes, bytes] = {}
        self.broken = False

    def get_many(self, ids: Sequence[bytes], deadline: float) -> Iterator[bytes | None]:
        for each in ids:
            if self.broken:
                raise StoreRefusedError(f"{self.display}: refused")
            yield self.held.get(each)

    def get_batches(
        self, ids: Sequence[bytes], deadline: float, patience: float | None = None
    ) -> Iterator[list[bytes | None]]:
        return gather((payload, lambda: True) for payload in self.get_many(ids, deadline))

    def is_patient(self) -> bool:
        return False

    def exists_many(self, ids: Sequence[bytes], deadline: float) -> list[bool]:
        return [each in self.held for each in ids]

    def put_many(self, items: Sequence[tuple[bytes, bytes]], deadline: float) -> None:
        self.held.update(items)

    def close(self) -> None: ...


NAMES = ["s0", "s1", "s2", "s3"]
digits = st.text("0123456789abcdef", min_size=1, max_size=2)
rules = st.tuples(digits, digits, st.sampled_from(NAMES)).map(
    lambda drawn: Rule(
        IdRange(*sorted((drawn[0][:1], drawn[1][:1]))), parse_store_url(f"redis://{drawn[2]}.invalid")
    )
)
layers = st.lists(
    st.dictionaries(st.sampled_from("pqr"), st.lists(rules, max_size=4).map(tuple), min_size=1).flatmap(
        lambda pools: st.builds(
            RouterConfig,
            st.just("r"),
            st.just(pools),
            st.lists(st.sampled_from(sorted(pools)), min_size=1, unique=True).map(tuple),
            st.just(()),
        )
    ),
    min_size=1,
    max_size=3,
)
states = st.dictionaries(
    st.tuples(st.sampled_from(NAMES), st.sampled_from(IDS)), st.sampled_from(["good", "bad"]), max_size=120
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers, states, st.sets(st.sampled_from(NAMES)))
def test_what_is_found_and_where_equals_the_model(
    monkeypatch: pytest.MonkeyPatch,
    layers: list[RouterConfig],
    states: dict[tuple[str, bytes], str],
    broken: set[str],
) -> None:
    stores = {url: MemoryStore(url) for url in (parse_store_url(f"redis://{name}.invalid") for name in NAMES)}
    for (name, chunk_id), state in states.items():
        url = parse_store_url(f"redis://{name}.invalid")
        # Who served a chunk shows in what is served.
        stores[url].held[chunk_id] = name.encode() if state == "good" else b"bad"
    for name in broken:
        stores[parse_store_url(f"redis://{name}.invalid")].broken = True
    monkeypatch.setattr(destination, "open_store", stores.__getitem__)
    monkeypatch.setattr(latency, "SLACK", 60.0)  # the model knows no clock: the order is that of the rules
    got: dict[int, bytes] = {}
    failed: dict[int, ZerofsError] = {}

    def accept(index: int, payload: bytes) -> None:
        if payload == b"bad":
            raise ChunkCorruptError("bad")
        got[index] = payload

    Router(layers).fetch_many(IDS, accept, failed.__setitem__, within())
    for index, chunk_id in enumerate(IDS):
        expected = model(layers, states, broken, chunk_id)
        if isinstance(expected, bytes):
            assert got[index] == expected
        else:
            assert type(failed[index]) is expected


def model(
    layers: list[RouterConfig], states: dict[tuple[str, bytes], str], broken: set[str], chunk_id: bytes
) -> bytes | type[ZerofsError]:
    """Who serves the chunk, or the class of the error."""
    seen = set()
    for layer in layers:
        for pool in layer.lookup:
            for ids, url in layer.pools[pool]:
                if int(ids.first, 16) <= chunk_id[0] >> 4 <= int(ids.last, 16):
                    assert isinstance(url, StoreUrl)
                    name = url.host.partition(".")[0]
                    state = "broken" if name in broken else states.get((name, chunk_id), "missing")
                    if state == "good":
                        return name.encode()
                    seen.add(state)
    if "bad" in seen:
        return ChunkCorruptError
    return StoreRefusedError if "broken" in seen else ChunkMissingError
