"""Where the chunks of a packed flist go, what the flist says of it, and stores that fail."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pack.conftest import PackJson
from tests.pack.trees import loaded, manifest_of
from tests.support.manifest import manifest
from tests.support.redisserver import RedisServer, free_port
from tests.support.sandbox import BINARIES
from zerofs.cli import main
from zerofs.flist.model import CHUNK_SIZE
from zerofs.store.base import open_store
from zerofs.store.ids import id_digits
from zerofs.store.routerfile import parse_router
from zerofs.store.url import parse_store_url

StartRedis = Callable[..., RedisServer]
PASSWORD = "correct horse"


def error_of(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit status and the only line on stderr."""
    status = main([str(argument) for argument in arguments])
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    return status, said.err.rstrip("\n")


def small(tmp_path: Path) -> Path:
    root = tmp_path / "small"
    root.mkdir(exist_ok=True)
    for number in range(40):
        (root / f"{number}").write_bytes(b"%d" % number)
    return root


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_into_redis(
    tree: Path, tmp_path: Path, redis_server: StartRedis, pack_json: PackJson, format: str
) -> None:
    server = redis_server()
    report = pack_json(tree, tmp_path / "x.flist", "--format", format, "--store", server.url)
    assert len(server.dump()) == report["chunks"]["distinct"]
    flist = loaded(tmp_path / "x.flist", tmp_path / "state")
    assert list(manifest_of(flist, open_store(parse_store_url(server.url)))) == list(manifest(tree))


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_each_store_gets_its_range(tmp_path: Path, pack_json: PackJson, format: str) -> None:
    stores = {"00-7f": "low", "80-ff": "high", "0-f": "all"}
    options = [text for ids, name in stores.items() for text in ("--store", f"{ids}=dir://{tmp_path}/{name}")]
    report = pack_json(small(tmp_path), tmp_path / "x.flist", "--format", format, *options)
    held = {
        name: {path.name for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in stores.values()
    }
    assert held["low"] | held["high"] == held["all"]
    assert all(name < "8" for name in held["low"])
    assert all(name >= "8" for name in held["high"])
    assert len(held["all"]) == report["chunks"]["distinct"] == 40
    flist = loaded(tmp_path / "x.flist", tmp_path / "state")
    if format == "fl":
        assert [(r.start, r.end, r.url) for r in flist.routes] == [
            (0, 0x7F, f"dir://{tmp_path}/low"),
            (0x80, 0xFF, f"dir://{tmp_path}/high"),
            (0, 0xFF, f"dir://{tmp_path}/all"),
        ]
        return
    assert flist.router is not None
    config = parse_router(flist.router, "router.yaml")
    rules = [rule for pool in config.lookup for rule in config.pools[pool]]
    for number in range(flist.index.chunk_count):
        digits = id_digits(flist.index.chunk(number).id)
        named = {Path(os.fsdecode(rule.url.path)).name for rule in rules if rule.ids.matches(digits)}
        assert named == {"all", "low" if digits < "8" else "high"}


def test_a_store_that_lacks_some_is_filled_up(tmp_path: Path, pack_json: PackJson) -> None:
    root = small(tmp_path)
    both = ("--store", f"dir://{tmp_path}/a", "--store", f"dir://{tmp_path}/b")
    pack_json(root, tmp_path / "x.flist", *both[:2])
    report = pack_json(root, tmp_path / "x.flist", *both)
    assert report["chunks"]["sent"] == 40
    again = pack_json(root, tmp_path / "x.flist", *both)
    assert (again["chunks"]["sent"], again["chunks"]["present"]) == (0, 40)


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
@pytest.mark.parametrize("way", ["argument", "file", "variable"])
def test_no_password_in_the_flist(
    tmp_path: Path,
    redis_server: StartRedis,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    format: str,
    way: str,
) -> None:
    password = "s3cr3t-of-the-store"
    server = redis_server(password=password)
    store = ["--store", server.url]
    if way == "file":
        (tmp_path / "stores").write_text(f"# where chunks go\n{server.url}\n")
        store = ["--store", f"@{tmp_path}/stores"]
    elif way == "variable":
        monkeypatch.setenv("ZEROFS_STORE", server.url)
        store = []
    flist = tmp_path / "x.flist"
    assert main(["pack", "--format", format, *store, str(small(tmp_path)), str(flist)]) == 0
    said = capsys.readouterr()
    assert password not in said.out + said.err
    if format == "fl":
        assert password.encode() not in flist.read_bytes()
    else:
        with tarfile.open(flist) as archive:
            contents = {member.name: archive.extractfile(member) for member in archive}
            pieces = [file.read() for file in contents.values() if file is not None]
            assert "router.yaml" in contents
        assert not any(password.encode() in piece for piece in pieces)
    named = loaded(flist, tmp_path / "state")
    address = f"redis://{server.host}:{server.port}"
    assert address in (named.router or b"").decode() + " ".join(route.url for route in named.routes)


@pytest.mark.parametrize("format", ["rocksdb", "sqlite", "fl"])
def test_no_router(tmp_path: Path, pack_json: PackJson, format: str) -> None:
    pack_json(small(tmp_path), tmp_path / "x.flist", "--format", format, "--no-router")
    flist = loaded(tmp_path / "x.flist", tmp_path / "state")
    assert (flist.router, flist.routes) == (None, ())


def test_warnings_name_what_is_lost(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pack", "--store", f"dir://{tmp_path}/store", str(tree), str(tmp_path / "x")]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert all(line.startswith("zerofs: warning: ") for line in lines)
    assert any("1 × file capabilities" in line and "(bin/ping)" in line for line in lines)
    assert any("2 × hard links" in line for line in lines)
    assert any("extended attributes" in line for line in lines)
    assert "distinct chunks" in said.out


def test_acls_are_counted(tmp_path: Path, pack_json: PackJson) -> None:
    root = small(tmp_path)
    entries = [
        (0x01, 6, 0xFFFFFFFF),
        (0x02, 4, 1234),
        (0x04, 4, 0xFFFFFFFF),
        (0x10, 4, 0xFFFFFFFF),
        (0x20, 4, 0xFFFFFFFF),
    ]
    acl = (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + bits.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, bits, who in entries
    )
    try:
        os.setxattr(root / "7", "system.posix_acl_access", acl)
    except OSError:
        pytest.skip("the kernel has no access control lists here")
    assert pack_json(root, tmp_path / "x.flist")["losses"]["acls"] == {"count": 1, "examples": ["7"]}


# -- stores that fail -----------------------------------------------------------------------


def test_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZEROFS_STORE", raising=False)
    status, line = error_of(capsys, "pack", small(tmp_path), tmp_path / "x")
    assert (status, line[:26]) == (2, "zerofs: no --store given (")
    assert error_of(capsys, "pack", "--format", "zip", "--store", "dir:///x", "a", "b")[0] == 2
    assert error_of(capsys, "pack", "--jobs", "0", "--store", "dir:///x", "a", "b")[0] == 2


@pytest.mark.parametrize(
    "stores",
    [
        ["gopher://host"],
        ["00-7f=dir:///tmp/x"],
        ["00-7=dir:///tmp/x"],
        ["7f-00=dir:///tmp/x"],
        ["redis://:secret@host:port"],
    ],
)
def test_store_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str], stores: list[str]) -> None:
    options = [text for store in stores for text in ("--store", store)]
    status, line = error_of(capsys, "pack", *options, small(tmp_path), tmp_path / "x")
    assert status == 4
    assert "secret" not in line
    assert not (tmp_path / "x").exists()


def test_ranges_too_fine_for_fungi(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stores = (
        "--store",
        "000-7ff=dir:///tmp/x",
        "--store",
        "800-ffe=dir:///tmp/x",
        "--store",
        "fff=dir:///tmp/x",
    )
    status, line = error_of(capsys, "pack", "--format", "fl", *stores, small(tmp_path), tmp_path / "x")
    assert status == 2
    assert "finer" in line


def test_a_web_server_takes_no_chunks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = error_of(capsys, "pack", "--store", "http://127.0.0.1:1/", small(tmp_path), tmp_path / "x")
    assert status == 1
    assert "only read" in line


def test_unreachable_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"redis://{PASSWORD.replace(' ', '%20')}@127.0.0.1:{free_port()}"
    flist = tmp_path / "out" / "x"
    flist.parent.mkdir()
    status, line = error_of(capsys, "pack", "--timeout", "0.3", "--store", url, small(tmp_path), flist)
    assert status == 1
    assert "127.0.0.1" in line
    assert "horse" not in line
    assert list(flist.parent.iterdir()) == []


def test_wrong_password(tmp_path: Path, redis_server: StartRedis, capsys: pytest.CaptureFixture[str]) -> None:
    server = redis_server(password="right")
    status, line = error_of(
        capsys, "pack", "--store", server.url.replace("right", "wr0ng"), small(tmp_path), tmp_path / "x"
    )
    assert status == 1
    assert "password" in line
    assert "wr0ng" not in line
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("flist", ["missing/x", "small"])
def test_no_place_for_the_flist(tmp_path: Path, capsys: pytest.CaptureFixture[str], flist: str) -> None:
    store = tmp_path / "store"
    assert error_of(capsys, "pack", "--store", f"dir://{store}", small(tmp_path), tmp_path / flist)[0] == 1
    assert not store.exists()


class Feeding:
    """`zerofs pack … - FLIST`, fed with a tar that does not end."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.flist = directory / "x.flist"
        self.process = subprocess.Popen(
            [BINARIES / "zerofs", "pack", *options, "-", self.flist],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "TMPDIR": str(directory)},
        )

    def feed(self, count: int) -> None:
        """`count` more files of a chunk each."""
        assert self.process.stdin is not None
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            for _ in range(count):
                info = tarfile.TarInfo(os.urandom(4).hex())
                info.size = CHUNK_SIZE
                archive.addfile(info, io.BytesIO(os.urandom(CHUNK_SIZE)))
        self.process.stdin.write(stream.getvalue()[: count * (CHUNK_SIZE + 512)])
        self.process.stdin.flush()

    def end(self) -> tuple[int, str]:
        """Exit status and stderr."""
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said.decode()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def feeding(tmp_path: Path, redis_server: StartRedis) -> Iterator[tuple[Feeding, RedisServer]]:
    server = redis_server()
    (tmp_path / "out").mkdir()
    process = Feeding(tmp_path / "out", "--timeout", "1", "--store", server.url)
    process.feed(16)
    deadline = time.monotonic() + 30
    while not server.dump():
        assert time.monotonic() < deadline, "nothing was stored"
    yield process, server
    process.close()


def test_a_store_that_goes_away_leaves_no_flist(feeding: tuple[Feeding, RedisServer]) -> None:
    process, server = feeding
    server.stop()
    try:
        for _ in range(40):
            process.feed(8)
    except BrokenPipeError:
        pass  # it gave up, as it should
    status, said = process.end()
    assert status == 1
    trouble, error = said.splitlines()
    assert "trying again" in trouble and server.url in trouble and "trying again" not in error
    assert f"redis://127.0.0.1:{server.port}" in said
    assert list(process.directory.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(
    feeding: tuple[Feeding, RedisServer], number: signal.Signals
) -> None:
    process, _ = feeding
    process.process.send_signal(number)
    assert process.end() == (130, "zerofs: interrupted\n")
    assert list(process.directory.iterdir()) == []


def test_what_was_stored_before_is_not_sent_again(tmp_path: Path, pack_json: PackJson) -> None:
    root = small(tmp_path)
    pack_json(root, tmp_path / "x.flist")
    (root / "new").write_bytes(b"something new")
    chunks = pack_json(root, tmp_path / "x.flist")["chunks"]
    assert (chunks["sent"], chunks["present"]) == (1, 40)


def test_json_is_the_only_output(tree: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    store = f"dir://{tmp_path}/store"
    assert main(["pack", "--json", "--store", store, str(tree), str(tmp_path / "x.flist")]) == 0
    said = capfd.readouterr()
    assert said.err == ""
    report = json.loads(said.out)
    assert sorted(report) == [
        "bytes", "chunks", "entries", "flist", "flist_bytes", "format", "losses", "stores",
    ]  # fmt: skip
    assert report["stores"] == [{"first": "0", "last": "f", "url": store}]
