"""`zerofs warmup`: what it fetches, from what it can be told, and what `--check` says of it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Packed, Zerofs
from tests.mount.conftest import Image, write
from tests.mount.conftest import pack as pack  # a fixture
from tests.support.faultproxy import Fault, FaultProxy
from tests.support.redisserver import RedisServer
from tests.support.sandbox import Sandbox
from zerofs.cli import main
from zerofs.errors import MountError
from zerofs.flist.index import Index
from zerofs.flist.load import profile_path
from zerofs.flist.model import Chunk
from zerofs.prefetch import warmup
from zerofs.prefetch.profile import Entry, Profile, write_profile

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the servers of these mounts run as root")


@pytest.fixture
def counts(capfd: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """``counts(*arguments, status=0)``: what ``zerofs warmup --json`` says."""

    def run(*arguments: object, status: int = 0) -> dict[str, Any]:
        got = main(["warmup", "--json", *map(str, arguments)])
        said = capfd.readouterr()
        assert got == status, said
        value = json.loads(said.out)
        assert isinstance(value, dict)
        return value

    return run


def test_a_path_and_then_the_rest(
    packed: Packed, tmp_path: Path, counts: Callable[..., dict[str, Any]]
) -> None:
    cache = ("--cache", tmp_path / "ca")
    before = counts(*cache, "--check", packed.flist, status=1)
    assert before["chunks_cached"] == before["files_cached"] == before["bytes_cached"] == 0
    assert not before["complete"]
    assert counts(*cache, packed.flist, "/long", "/many") == {
        **counts(*cache, "--check", packed.flist, "long", "many"), "fetched": 4 + 76, "failed": 0
    }  # fmt: skip
    partly = counts(*cache, "--check", packed.flist, status=1)
    assert 0 < partly["files_cached"] < partly["files"]
    assert partly["files_cached"] >= 150 + 3  # of equal content, too
    shutil.move(packed.chunks, tmp_path / "elsewhere")
    counts(*cache, packed.flist, "/absolute/../long")  # nothing to fetch, so no store is needed
    shutil.move(tmp_path / "elsewhere", packed.chunks)
    assert counts(*cache, "--all", packed.flist)["complete"]
    whole = counts(*cache, "--check", packed.flist)
    assert whole["chunks_cached"] == whole["chunks"]
    assert whole["bytes_cached"] == whole["bytes"] >= partly["bytes_cached"]


def test_what_a_profile_names(
    packed: Packed, tmp_path: Path, counts: Callable[..., dict[str, Any]], zerofs: Zerofs
) -> None:
    cache = ("--cache", tmp_path / "ca")
    counts(*cache, "--check", packed.flist, status=1)  # which compiles the index
    assert "no access profile" in zerofs("warmup", *cache, "--profile", packed.flist, status=1).err
    (index,) = (tmp_path / "ca" / "flists").glob("*.index-*")
    tree = Index.open(index)
    path = profile_path(index.parent, tree.content_hash)
    write_profile(Profile(tree.content_hash, 1, tuple(Entry(number, 0) for number in (7, 3, 5))), path)
    before = counts(*cache, "--profile", "--check", packed.flist, status=1)
    assert (before["chunks"], before["chunks_cached"]) == (3, 0)
    assert counts(*cache, "--profile", packed.flist)["fetched"] == 3
    assert zerofs("warmup", *cache, "--profile", "--check", packed.flist).out.startswith("3 of 3 chunks")
    write_profile(Profile(bytes(32), 1, (Entry(1, 0),)), path)
    assert "of another flist" in zerofs("warmup", *cache, "--profile", packed.flist, status=1).err


def test_lines_for_people(
    packed: Packed, tmp_path: Path, zerofs: Zerofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zerofs.cli.progress.INTERVAL", 0.0)
    done = zerofs("warmup", "--cache", tmp_path / "ca", packed.flist, "/long")
    assert done.out == "1 of 1 files, 4 of 4 chunks, 1.5 MiB of 1.5 MiB are in the cache\n"
    assert done.err.splitlines()[-1] == "zerofs: warming up: 4 of 4 chunks, 1.5 MiB of 1.5 MiB"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["image"], "nothing to warm up"),
        (["--all", "image", "/path"], "exclude each other"),
        (["--all", "image"], "no --cache given"),
        (["--all", "--rate", "fast", "image"], "not a size"),
    ],
)
def test_calls_that_make_no_sense(arguments: list[str], says: str, zerofs: Zerofs) -> None:
    assert says in zerofs("warmup", *arguments, status=2).err


def test_a_path_that_is_not_there(packed: Packed, tmp_path: Path, zerofs: Zerofs) -> None:
    assert "no such path" in zerofs("warmup", "--cache", tmp_path / "ca", packed.flist, "/nope", status=1).err


def test_chunks_that_cannot_be_had_are_counted(
    packed: Packed, tmp_path: Path, counts: Callable[..., dict[str, Any]]
) -> None:
    lost = sorted(path for path in packed.chunks.rglob("*") if path.is_file())[::9]
    for path in lost:
        path.unlink()
    found = counts("--cache", tmp_path / "ca", "--all", packed.flist, status=1)
    assert found["failed"] == len(lost) == found["chunks"] - found["chunks_cached"]
    assert found["fetched"] == found["chunks_cached"] > 0


def test_a_cache_that_is_too_small(packed: Packed, tmp_path: Path, zerofs: Zerofs) -> None:
    options = ["--cache", tmp_path / "ca", "--cache-size", "2M"]
    done = zerofs("warmup", "--json", *options, "--all", packed.flist, status=6)
    assert "the cache is full" in done.err
    assert done.json["files_cached"] > 150  # the small ones come first


def test_many_small_chunks_share_round_trips(
    tmp_path: Path,
    zerofs: Zerofs,
    counts: Callable[..., dict[str, Any]],
    redis_server: Callable[..., RedisServer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for number in range(600):
        write(tmp_path / f"tree/{number}", f"chunk {number}")
    server = redis_server()
    zerofs("pack", "--no-router", "--store", server.url, tmp_path / "tree", tmp_path / "x.flist")
    monkeypatch.setattr(warmup, "WINDOW_CHUNKS", 300)  # filled twice
    batches: list[int] = []
    original = warmup.WarmUp.run
    monkeypatch.setattr(
        warmup.WarmUp, "run", lambda self, numbers: (_watch(self, batches), original(self, numbers))[1]
    )
    with FaultProxy((server.host, server.port)) as proxy:
        proxy.fault = Fault("delay", seconds=0.005)
        url = f"redis://{proxy.host}:{proxy.port}"
        found = counts("--cache", tmp_path / "ca", "--storage-url", url, "--all", tmp_path / "x.flist")
        assert found["fetched"] == 600
        assert proxy.connections <= 9
    assert sum(batches) == 600
    assert len(batches) <= 200


def _watch(work: warmup.WarmUp, batches: list[int]) -> None:
    """Count the chunks of each batch that goes to the stores."""
    router = work._fetcher._router
    fetch = router.fetch_batches

    def counted(ids: list[bytes], *rest: object, **options: object) -> None:
        batches.append(len(ids))
        fetch(ids, *rest, **options)  # type: ignore[arg-type]

    router.fetch_batches = counted  # type: ignore[method-assign, assignment]


def test_what_is_on_its_way_is_bounded(
    packed: Packed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zerofs.flist.load import load_flist

    index = load_flist(str(packed.flist), tmp_path / "state").index
    waiting: list[tuple[int, Callable[..., object]]] = []
    most = [0, 0]

    class Slow:
        """Brings a chunk when there is nothing else to do."""

        def submit(self, chunk: Chunk, done: Callable[..., object]) -> None:
            waiting.append((chunk.size, done))
            most[0] = max(most[0], len(waiting))
            most[1] = max(most[1], sum(size for size, _ in waiting))

        def expire(self) -> None:
            waiting.pop(0)[1](b"", None)

    monkeypatch.setattr(warmup, "_TICK", 0.001)
    for chunks, size in ((3, 1 << 40), (1 << 40, 3 << 19)):
        most[:] = [0, 0]
        monkeypatch.setattr(warmup, "WINDOW_CHUNKS", chunks)
        monkeypatch.setattr(warmup, "WINDOW_BYTES", size)
        work = warmup.WarmUp(index, Slow(), advance=lambda size: None)  # type: ignore[arg-type]
        work.run(range(index.chunk_count))
        assert work.fetched == index.chunk_count
        assert most[0] <= chunks
        assert most[1] <= size
    assert most[0] > 3


def test_a_rate_is_kept_to(packed: Packed, tmp_path: Path) -> None:
    """By a clock that only moves when it is asked how late it is."""
    from zerofs.flist.load import load_flist

    index = load_flist(str(packed.flist), tmp_path / "state").index
    now = [0.0]
    due: list[float] = []

    class Instant:
        def submit(self, chunk: object, done: Callable[..., object]) -> None:
            due.append(now[0])
            done(b"", None)

        def expire(self) -> None:
            pass

    def clock() -> float:
        now[0] += 0.001
        return now[0]

    sizes: list[int] = []
    work = warmup.WarmUp(index, Instant(), advance=sizes.append, rate=1e6, clock=clock)  # type: ignore[arg-type]
    work._wait_for = lambda condition, until=float("inf"): (  # type: ignore[method-assign, assignment]
        now.__setitem__(0, max(now[0], until)) if until != float("inf") else None
    )
    work.run(range(index.chunk_count))
    for position in range(1, len(due)):
        assert due[position] - due[position - 1] >= sizes[position - 1] / 1e6 - 1e-6


@needs_root
@pytest.mark.parametrize("style", ["ro", "union", "daemon"])
def test_a_mount_point_stands_for_its_flist_and_its_cache(
    sandbox: Sandbox, pack: Callable[..., Image], counts: Callable[..., dict[str, Any]], style: str
) -> None:
    image = pack("image", lambda root: [write(root / f"dir/{n}", f"{n}" * 1000) for n in range(20)])
    options = ["--storage-url", f"dir://{image.store}", "--cache", "cache", "--meta", image.flist.name]
    target = sandbox.directory("mnt")
    words = {
        "ro": ["--ro"],
        "union": ["--backend", "backend"],
        "daemon": ["--ro", "--daemon", "--log", "log"],
    }[style]
    if style == "daemon":
        sandbox.run("g8ufs", *words, *options, target, env={"PWD": str(sandbox.path)})  # as a shell does
    else:
        here = Path.cwd()
        os.chdir(sandbox.path)
        try:
            sandbox.mount(*words, *options, target=target, allow=["a read failed"])
        finally:
            os.chdir(here)
    counts("--check", target, status=1)
    found = counts(target, "/dir/7", "/dir/8")
    assert (found["fetched"], found["complete"]) == (2, True)
    shutil.move(image.store, sandbox.path / "away")
    assert (target / "dir/7").read_text() == "7" * 1000
    with pytest.raises(OSError, match="Input/output"):
        (target / "dir/9").read_text()
    shutil.move(sandbox.path / "away", image.store)
    assert counts("--all", target)["complete"]
    assert counts("--check", "--cache", sandbox.path / "cache", image.flist)["complete"]


@needs_root
def test_flists_that_were_laid_over_a_mount_are_warmed_up_too(
    sandbox: Sandbox, pack: Callable[..., Image], counts: Callable[..., dict[str, Any]]
) -> None:
    image = pack("image", lambda root: [write(root / f"dir/{n}", f"{n}" * 1000) for n in range(20)])
    more = pack("more", lambda root: [write(root / f"more/{n}", f"more {n}" * 1000) for n in range(5)])
    backend = sandbox.path / "backend"
    options = ["--storage-url", f"dir://{image.store}", "--cache", sandbox.path / "cache"]
    mount = sandbox.mount(*options, "--backend", backend, "--meta", image.flist)
    assert counts("--all", mount.target)["files"] == 20
    (backend / ".layered").write_text(f"{more.flist}\n")
    assert counts("--check", mount.target)["files"] == 20, "what is to come is not there yet"
    mount.process.send_signal(signal.SIGHUP)
    while not (mount.target / "more").exists():
        time.sleep(0.02)
    assert counts("--check", mount.target, status=1)["files"] == 25
    found = counts("--all", mount.target)
    assert (found["files"], found["fetched"], found["complete"]) == (25, 5, True)
    shutil.move(image.store, sandbox.path / "away")
    for n in range(5):
        assert (mount.target / f"more/{n}").read_text() == f"more {n}" * 1000


@needs_root
def test_a_mount_that_cannot_be_asked_is_known_by_its_command_line(
    sandbox: Sandbox,
    pack: Callable[..., Image],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    image = pack("image", lambda root: [write(root / f"dir/{n}", f"{n}" * 1000) for n in range(3)])
    mount = sandbox.mount(
        *("--ro", "--storage-url", f"dir://{image.store}", "--cache", sandbox.path / "cache"),
        *("--meta", image.flist),
    )

    def told(flists: list[str]) -> Callable[..., dict[str, Any]]:
        return lambda _: {"mount": {"flists": flists}}

    def silent(_: object) -> dict[str, Any]:
        raise MountError("it does not answer")

    monkeypatch.setattr("zerofs.mount.inquiry.ask", silent)
    assert main(["warmup", "--all", str(mount.target)]) == 0
    said = capfd.readouterr()
    assert "3 of 3 files" in said.out and "it does not answer" in said.err
    monkeypatch.setattr("zerofs.mount.inquiry.ask", told(["x", "http://***@host/more.flist"]))
    assert main(["warmup", "--check", str(mount.target)]) != 0
    assert "has a secret" in capfd.readouterr().err
