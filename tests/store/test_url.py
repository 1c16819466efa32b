from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zerofs.errors import StoreConfigError
from zerofs.store.url import StoreUrl, parse_store_url, redact


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ardb://a.example", StoreUrl("ardb", "a.example", 16379)),
        ("ardb://hub.gig.tech:16379", StoreUrl("ardb", "hub.gig.tech", 16379)),
        ("redis://a", StoreUrl("redis", "a", 6379)),
        ("REDIS://A:7000/3", StoreUrl("redis", "a", 7000, database=3)),
        ("redis://a/0", StoreUrl("redis", "a", 6379)),
        ("redis://a/", StoreUrl("redis", "a", 6379)),
        ("redis://secret@a", StoreUrl("redis", "a", 6379, auth=(b"secret",))),
        ("redis://:secret@a", StoreUrl("redis", "a", 6379, auth=(b"secret",))),
        ("redis://bob:secret@a", StoreUrl("redis", "a", 6379, auth=(b"bob", b"secret"))),
        ("redis://:p%40ss%3A%2F%25@a", StoreUrl("redis", "a", 6379, auth=(b"p@ss:/%",))),
        ("redis://:p@ss@a", StoreUrl("redis", "a", 6379, auth=(b"p@ss",))),
        ("redis://:%ff%00@a", StoreUrl("redis", "a", 6379, auth=(b"\xff\0",))),
        ("rediss://bob:pw@a", StoreUrl("rediss", "a", 6379, auth=(b"bob", b"pw"))),
        ("redis://[::1]", StoreUrl("redis", "::1", 6379)),
        ("redis://[2001:db8::7]:99", StoreUrl("redis", "2001:db8::7", 99)),
        ("redis://pw@[fe80::1%25eth0]:99", StoreUrl("redis", "fe80::1%eth0", 99, auth=(b"pw",))),
        ("zdb://z", StoreUrl("zdb", "z", 9900)),
        ("zdb://z/", StoreUrl("zdb", "z", 9900)),
        ("zdb://z/default", StoreUrl("zdb", "z", 9900)),
        ("zdb://z:1/ns", StoreUrl("zdb", "z", 1, namespace=b"ns")),
        ("zdb://:pw@z/ns", StoreUrl("zdb", "z", 9900, namespace=b"ns", namespace_password=b"pw")),
        ("zdb://adm@z", StoreUrl("zdb", "z", 9900, auth=(b"adm",))),
        (
            "zdb://adm:pw@z/ns",
            StoreUrl("zdb", "z", 9900, namespace=b"ns", auth=(b"adm",), namespace_password=b"pw"),
        ),
        ("zdb:///run/z.sock", StoreUrl("zdb", path=b"/run/z.sock")),
        (
            "zdb://:pw@/run/z.sock?namespace=ns",
            StoreUrl("zdb", path=b"/run/z.sock", namespace=b"ns", namespace_password=b"pw"),
        ),
        ("unix:///run/r.sock", StoreUrl("unix", path=b"/run/r.sock")),
        ("unix://pw@/run/r.sock?db=2", StoreUrl("unix", path=b"/run/r.sock", database=2, auth=(b"pw",))),
        ("redis-cluster://a:7000", StoreUrl("redis-cluster", "a", 7000)),
        (
            "redis-cluster://bob:pw@a:1,[::1]:2,B,a:1",
            StoreUrl("redis-cluster", "a", 1, auth=(b"bob", b"pw"), others=(("::1", 2), ("b", 6379))),
        ),
        ("rediss-cluster://a,b:1", StoreUrl("rediss-cluster", "a", 6379, others=(("b", 1),))),
        ("dir:///var/chunks/", StoreUrl("dir", path=b"/var/chunks")),
        ("dir:///", StoreUrl("dir", path=b"/")),
        ("dir:///with%20blank", StoreUrl("dir", path=b"/with blank")),
        ("http://w/a/b/", StoreUrl("http", "w", 80, b"/a/b")),
        ("https://u:pw@w", StoreUrl("https", "w", 443, auth=(b"u", b"pw"))),
    ],
)
def test_every_scheme(text: str, expected: StoreUrl) -> None:
    assert parse_store_url(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is empty"),
        ("hub.gig.tech:16379", "no store URL"),
        ("/var/chunks", "no store URL"),
        ("ftp://a", "unknown scheme ftp://"),
        ("s3://k:hunter2@a/bucket?region=x", "s3:// stores are not supported"),
        ("s3s://k:hunter2@a/bucket", "s3s:// stores are not supported"),
        ("server://a", "server:// stores are not supported"),
        ("redis-cluster://", "names no host"),
        ("redis-cluster://a:1,,b", "names no host"),
        ("redis-cluster://:hunter2@a:1,b:x", "port"),
        ("redis-cluster://a/3", "no databases"),
        ("redis-cluster://a?db=3", "options"),
        ("redis-cluster://" + ",".join(f"h{n}" for n in range(65)), "at most 64"),
        ("redis://", "names no host"),
        ("redis://:hunter2@", "names no host"),
        ("redis://a:0", "port"),
        ("redis://a:65536", "port"),
        ("redis://a:hunter2", "port"),
        ("redis://:hunter2/x@a", "names no host"),
        ("redis://::1:6379", "brackets"),
        ("redis://[::1", "IPv6"),
        ("redis://[::1]hunter2", "brackets"),
        ("redis://a/b", "database"),
        ("redis://a/1/2", "database"),
        ("redis://a?password=hunter2", "options"),
        ("redis://:hunter2#@a", "%23"),
        ("redis://a\r\nFLUSHALL", "control"),
        ("redis://a b", "control"),
        ("zdb://:hunter2@z", "belongs to a namespace"),
        ("zdb://z/a/b", "namespace"),
        ("zdb://z/a%2fb", "namespace"),
        ("zdb://z/" + "n" * 129, "namespace"),
        ("unix://relative/path", "three slashes"),
        ("unix:///" + "p" * 107, "107"),
        ("dir://relative", "three slashes"),
        ("dir://u:hunter2@/x", "three slashes"),
        ("http:///x", "names no host"),
        ("http://a/?token=hunter2", "options"),
    ],
)
def test_what_makes_no_sense_is_refused_without_showing_a_password(text: str, reason: str) -> None:
    with pytest.raises(StoreConfigError, match=reason) as caught:
        parse_store_url(text)
    if "hunter2" in text and "@" in text:
        assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "text",
    [
        "redis://hunter2@a:1/3",
        "redis://bob:hunter2@[::1]",
        "redis-cluster://bob:hunter2@[fe80::1%25eth0]:1,b:2",
        "rediss://:hunter2@a",
        "rediss-cluster://:hunter2@a:1,b:2",
        "ardb://hunter2@a",
        "zdb://adm:hunter2@z/ns",
        "zdb://:hunter2@/run/z.sock?namespace=n%26s",
        "unix://hunter2@/run/r%3f.sock?db=7",
        "https://u:hunter2@w/p%20q",
        "redis://hunter2@[fe80::1%25eth0]:9",
    ],
)
def test_what_is_shown_has_no_password_and_is_a_url_again(text: str) -> None:
    url = parse_store_url(text)
    for shown in (url.display, url.published, repr(url), str(url), f"{url}"):
        assert "hunter2" not in shown
    again = parse_store_url(url.published)
    assert again == url._replace(auth=(), namespace_password=b"")


@given(st.binary(min_size=1, max_size=30), st.binary(min_size=1, max_size=30))
def test_any_password_can_be_written(user: bytes, password: bytes) -> None:
    def quoted(raw: bytes) -> str:
        return "".join(f"%{byte:02x}" for byte in raw)

    url = parse_store_url(f"redis://{quoted(user)}:{quoted(password)}@host")
    assert url.auth == (user, password)


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    try:
        url = parse_store_url(text)
    except StoreConfigError as fault:
        assert "\n" not in str(fault)
    else:
        assert parse_store_url(url.display).display == url.display


def test_redacting_leaves_nothing_of_a_user_part() -> None:
    assert redact("redis://a:b/c@d@host/1?x=y\n") == "redis://***@host/1?***"
    assert len(redact("x" * 1000)) < 300
