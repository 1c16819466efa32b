from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.errors import StoreConfigError
from zerofs.store import routerfile
from zerofs.store.layers import RouterConfig, Rule
from zerofs.store.ranges import IdRange
from zerofs.store.routerfile import parse_router
from zerofs.store.url import parse_store_url

EXAMPLE = b"""\
pools:
  hub:
    00:7F: ardb://a.example:16379      # inclusive range of id prefixes
    80:FF: ardb://b.example:16379
    80:FF: zdb://c.example:9900        # overlapping ranges: each is tried
  local:
    "00:FF": zdb://192.0.2.1:9900
lookup: [local, hub]
cache: [local]
"""


def rule(first: str, last: str, url: str) -> Rule:
    return Rule(IdRange(first, last), parse_store_url(url))


def test_the_example() -> None:
    assert parse_router(EXAMPLE, "r.yaml") == RouterConfig(
        "r.yaml",
        {
            "hub": (
                rule("00", "7f", "ardb://a.example:16379"),
                rule("80", "ff", "ardb://b.example:16379"),
                rule("80", "ff", "zdb://c.example:9900"),
            ),
            "local": (rule("00", "ff", "zdb://192.0.2.1:9900"),),
        },
        ("local", "hub"),
        ("local",),
    )


@pytest.mark.parametrize("key", ["10:59", "1:2", "00:59", "0o7:0o7", "123", "1e3", "0:0", "07", "12:34"])
def test_keys_are_the_text_that_stands_there(key: str) -> None:
    text = f"pools: {{p: {{{key}: redis://a}}}}\nlookup: [p]\n".encode()
    if "o" in key:
        with pytest.raises(StoreConfigError, match="bad range '0o7:0o7'"):
            parse_router(text, "r")
        return
    first, _, last = key.partition(":")
    assert parse_router(text, "r").pools["p"][0].ids == IdRange(first, last or first)


@given(st.integers(0, 0xFFF), st.integers(0, 0xFFF))
def test_every_range_of_three_digits_is_read_as_written(one: int, two: int) -> None:
    first, last = f"{min(one, two):03x}", f"{max(one, two):03X}"
    text = f"pools:\n  p:\n    {first}:{last}: redis://a\nlookup: [p]\n".encode()
    assert parse_router(text, "r").pools["p"][0].ids == IdRange(first, last.lower())


def test_a_pool_that_stands_twice_goes_on() -> None:
    text = b"pools:\n  p: {'0': redis://a}\n  p: {'0': redis://b}\nlookup: [p]\n"
    assert len(parse_router(text, "r").pools["p"]) == 2


def test_aliases_and_an_unknown_key(caplog: pytest.LogCaptureFixture) -> None:
    text = b"pools: {p: &p {'0': redis://a}, q: *p}\nlookup: [p, q, p]\nversion: 3\n"
    with caplog.at_level(logging.WARNING):
        config = parse_router(text, "r")
    assert config.lookup == ("p", "q") and config.cache == ()
    assert "r:3: unknown key" in caplog.text


FAULTS = b"""\
pools:
  one:
    zz: redis://a
    0:ff: redis://a
    f:0: redis://a
    '00': s3://key:hunter2@a/bucket
    '01': gopher://a
    '02': redis://bob:hunter2@a:port
    '03': [redis://a]
    [1, 2]: redis://a
  two: redis://a
  three:
lookup: [one, nowhere, {}]
cache: elsewhere
lookup: [two]
"""


def test_all_faults_are_reported_together_each_with_its_place() -> None:
    with pytest.raises(StoreConfigError) as caught:
        parse_router(FAULTS, "r.yaml")
    message = str(caught.value)
    for place in [
        "3:5",
        "4:5",
        "5:5",
        "6:11",
        "7:11",
        "8:11",
        "9:11",
        "10:5",
        "11:8",
        "12:9",
        "13:15",
        "13:24",
    ]:
        assert f"r.yaml:{place}: " in message, place
    assert "r.yaml:14:8: " in message and "r.yaml:15:1: " in message
    assert message.count("r.yaml:") == 14
    assert "hunter2" not in message and "\n" not in message
    assert caught.value.exit_code == 4


def test_what_a_file_can_say_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    keys = "".join(f"key{number}: 1\n" for number in range(5000))
    with caplog.at_level(logging.WARNING):
        parse_router(f"{keys}pools: {{p: {{'0': redis://a}}}}\nlookup: [p]\n".encode(), "r")
    assert [each.getMessage() for each in caplog.records] == [
        "r:1,2,3 and 4997 more: unknown key in a router file, ignored"
    ]
    rules = "".join(f"    x{number}: redis://a\n" for number in range(5000))
    with pytest.raises(StoreConfigError, match=r"r:22:5: .*; and 4980 faults more") as caught:
        parse_router(f"pools:\n  p:\n{rules}lookup: [p]\n".encode(), "r")
    assert len(str(caught.value)) < 5000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"", "a mapping"),
        (b"just text", "a mapping"),
        (b"- a", "a mapping"),
        (b"lookup: [a]", "no pools"),
        (b"pools: {}\nlookup: []", "lookup names no pool"),
        (b"pools: {p: {'0': redis://a}}", "lookup names no pool"),
        (b"pools: {p: {'0': redis://a}}\nlookup:\n", "list of pools"),
        (b"pools: {p: {'0': redis://a}}\nlookup: [p]\ncache: [q]", "cache names the pool 'q'"),
        (b"pools: []\nlookup: [p]", "pools is a mapping"),
        (b"a: [", "1:5: not YAML"),
        (b"a: b: c", "not YAML"),
        (b"a\n---\nb", "not YAML"),
        (b"\tx: 1", "not YAML"),
        (b"*nothing", "not YAML"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"\x00", "not YAML"),
        (b"[" * 5000, "not YAML"),
        (b"x" * (2 << 20), "at most"),
    ],
)
def test_bad_files(text: bytes, reason: str) -> None:
    with pytest.raises(StoreConfigError, match=reason) as caught:
        parse_router(text, "r")
    assert str(caught.value).startswith("r:") and "\n" not in str(caught.value)


def test_aliases_cannot_blow_a_file_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routerfile, "MAX_RULES", 1000)
    rules = ", ".join(f"'{number:02x}': redis://a" for number in range(100))
    pools = ", ".join(f"p{number}: *p" for number in range(100))
    text = f"pools: {{p: &p {{{rules}}}, {pools}}}\nlookup: [p]\n".encode()
    with pytest.raises(StoreConfigError, match="more than 1000 destinations"):
        parse_router(text, "r")


@given(st.binary(max_size=200))
def test_no_bytes_break_the_parser(text: bytes) -> None:
    with pytest.raises(StoreConfigError):
        parse_router(text, "r")
