"""Merging layers, and where the store comes from that nobody named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from zerofs.errors import StoreConfigError
from zerofs.flist.model import Route
from zerofs.store import config
from zerofs.store.build import build_router
from zerofs.store.config import HUB, default_storage


def router_text(pool: str, url: str) -> bytes:
    return f"pools: {{{pool}: {{'0:f': '{url}'}}}}\nlookup: [{pool}]\n".encode()


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ZEROFS_CONFIG", raising=False)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(config, "SYSTEM_FILE", tmp_path / "etc" / "config.toml")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_layers_are_asked_top_first_and_their_pools_kept_apart(tmp_path: Path) -> None:
    local = tmp_path / "local.yaml"
    local.write_bytes(router_text("hub", "redis://local"))
    flists = [("top", router_text("hub", "redis://top")), ("below", router_text("hub", "redis://below"))]
    routes = [Route(0, 127, "zdb://route"), Route(128, 255, "zdb://route2")]
    router = build_router(local, flists, routes, "ardb://last")
    assert router.destinations() == [
        "redis://local:6379",
        "redis://top:6379",
        "redis://below:6379",
        "zdb://route:9900",
        "zdb://route2:9900",
        "ardb://last:16379",
    ]


@pytest.mark.parametrize("given", ["router", "route", "url"])
def test_the_default_is_for_those_who_name_nothing(given: str) -> None:
    router = build_router(
        None,
        [("f", router_text("p", "redis://a"))] if given == "router" else [],
        [Route(0, 255, "redis://a")] if given == "route" else [],
        "redis://a" if given == "url" else None,
    )
    assert router.destinations() == ["redis://a:6379"]
    assert build_router(None, [], [], None).destinations() == [HUB]


def test_the_faults_of_all_files_come_together(tmp_path: Path) -> None:
    with pytest.raises(StoreConfigError) as caught:
        build_router(
            tmp_path / "none.yaml",
            [("a", b"pools: {p: {zz: 'redis://x'}}\nlookup: [p]"), ("b", b"lookup: []")],
            [],
            "foo://bar",
        )
    message = str(caught.value)
    for part in (
        "none.yaml: No such file",
        "a:1:13: bad range",
        "b:1:1: it has no pools",
        "unknown scheme foo://",
    ):
        assert part in message


def test_an_unsupported_scheme_in_a_router_file_is_a_fault() -> None:
    with pytest.raises(StoreConfigError, match="s3:// stores are not supported"):
        build_router(None, [("f", router_text("p", "s3://a/b"))], [], None)


@pytest.mark.parametrize(
    "url", ["s3://k:hunter2@a/b", "quic://hunter2@x", "hunter2 @", "redis://hunter2@a:x"]
)
def test_a_route_that_cannot_be_used_is_none(url: str) -> None:
    router = build_router(None, [], [Route(0, 255, url)], None)
    assert len(router.destinations()) == 1
    if "://" in url:
        assert "hunter2" not in router.destinations()[0]


def test_the_configuration_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write(tmp_path / "etc" / "config.toml", '[globals]\nstorage = "redis://system"\n')
    assert default_storage().host == "system"
    write(tmp_path / "home" / ".config" / "zerofs" / "config.toml", '[globals]\nstorage = "redis://home"\n')
    assert default_storage().host == "home"
    write(tmp_path / "xdg" / "zerofs" / "config.toml", '[globals]\nstorage = "redis://xdg"\n')
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert default_storage().host == "xdg"
    named = write(tmp_path / "named.toml", '[globals]\nstorage = "redis://named"\n')
    monkeypatch.setenv("ZEROFS_CONFIG", str(named))
    assert default_storage().host == "named"
    assert build_router(None, [], [], None).destinations() == ["redis://named:6379"]
    write(named, "[other]\nx = 1\n")
    assert default_storage().display == HUB


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("not toml", "not TOML"),
        ("[globals]\nstorage = 3\n", "is a text"),
        ("globals = 3\n", "is a text"),
        ('[globals]\nstorage = "redis://u:hunter2@h:x"\n', "port"),
    ],
)
def test_a_bad_configuration_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, reason: str
) -> None:
    monkeypatch.setenv("ZEROFS_CONFIG", str(write(tmp_path / "c.toml", text)))
    with pytest.raises(StoreConfigError, match=reason) as caught:
        default_storage()
    assert str(tmp_path / "c.toml") in str(caught.value) and "hunter2" not in str(caught.value)


def test_a_configuration_file_that_is_named_but_not_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ZEROFS_CONFIG", str(tmp_path / "none.toml"))
    with pytest.raises(StoreConfigError, match="no such file"):
        default_storage()


IMPORTS = """
import sys
from zerofs.store.build import build_router
from zerofs.store.base import open_store
from zerofs.store.url import parse_store_url
build_router(None, [], [], "redis://pw@host")
open_store(parse_store_url("redis://pw@host"))
heavy = {"yaml", "ssl", "http.client", "tomllib", "asyncio", "concurrent.futures", "inspect", "numpy"}
sys.exit(", ".join(sorted(heavy & set(sys.modules))) or 0)
"""


def test_a_mount_from_redis_imports_nothing_heavy() -> None:
    run = subprocess.run([sys.executable, "-I", "-S", "-c", PATHS + IMPORTS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# Without site: editable installs may import much by themselves.
PATHS = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"
