"""What real mounts say of themselves, asked by `zerofs stats` and `zerofs top`."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.mount.conftest import Image, write
from tests.support.mounts import mounted_at
from tests.support.redisserver import RedisServer
from tests.support.sandbox import BINARIES, MountProcess, Sandbox
from zerofs.mount.controlplace import candidates

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

CHUNK = 512 * 1024
BIG = random.Random(1).randbytes(3 * CHUNK + 100)
SOCKETS = Path("/run/zerofs")


@pytest.fixture
def image(pack: Callable[..., Image]) -> Image:
    def fill(root: Path) -> None:
        write(root / "big", BIG)
        write(root / "small", "small")

    return pack("image", fill)


Mounted = Callable[..., MountProcess]


def stats(sandbox: Sandbox, target: Path) -> Any:
    return json.loads(sandbox.run("zerofs", "stats", "--json", target).stdout)


@pytest.mark.parametrize("union", [False, True])
def test_what_is_counted(image: Image, mounted: Mounted, sandbox: Sandbox, engine: str, union: bool) -> None:
    union_options = ["--backend", sandbox.path / "backend"] if union else []
    mount = mounted(image, "--prefetch", "off", *union_options)  # which would fetch before anybody waits
    assert (mount.target / "big").read_bytes() == BIG
    assert (mount.target / "small").read_bytes() == b"small"
    said = stats(sandbox, mount.target)
    assert said["mount"]["target"] == str(mount.target) and said["mount"]["process"] == mount.pid
    assert said["mount"]["flists"] == [str(image.flist)] and said["mount"]["engine"] == engine
    assert said["mount"]["union"] is union and said["mount"]["names"] == 3
    assert said["mount"]["bytes"] == len(BIG) + 5 and said["mount"]["chunks"] == 5
    assert said["reads"]["bytes"] == len(BIG) + 5
    assert 2 <= said["reads"]["waited"] <= said["reads"]["answered"]
    assert said["reads"]["waiting"] == said["reads"]["failed"] == 0
    # a read of the kernel that began before a chunk was in the cache may find it there when its turn comes
    assert said["fetch"]["fetched"] == 5 == said["fetch"]["latency"]["count"] - said["fetch"]["from_cache"]
    assert said["prefetch"] is None
    assert said["fetch"]["plain_bytes"] == len(BIG) + 5
    latency = said["fetch"]["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    (store,) = said["stores"]
    assert store["store"] == f"dir://{image.store}" and store["chunks"] == 5
    assert store["bytes"] == said["fetch"]["fetched_bytes"]
    assert said["cache"]["directory"] == str(sandbox.path / "cache")
    again = stats(sandbox, mount.target)
    assert again["mount"]["uptime"] > said["mount"]["uptime"]
    page = sandbox.run("zerofs", "stats", mount.target).stdout.decode()
    assert f"process {mount.pid}" in page and store["store"] in page and "p99" in page
    assert mount.stop() == 0
    assert not (SOCKETS / f"{mount.pid}.sock").exists()


def test_warm_reads_are_counted_and_wait_for_nothing(
    image: Image, mounted: Mounted, sandbox: Sandbox
) -> None:
    first = mounted(image)
    (first.target / "big").read_bytes()
    first.stop()
    second = mounted(image)
    assert (second.target / "big").read_bytes() == BIG
    said = stats(sandbox, second.target)
    assert said["reads"]["bytes"] == len(BIG) and said["reads"]["waited"] == 0
    assert said["fetch"]["fetched"] == said["stores"][0]["requests"] == 0


def test_failed_reads_and_a_store_that_is_gone(
    image: Image, mounted: Mounted, sandbox: Sandbox, redis_server: Callable[..., RedisServer]
) -> None:
    server = redis_server(password="sesame")
    url = server.url
    server.stop()
    mount = mounted(image, "--storage-url", url, "--timeout", "1", allow=["a read failed"])
    with pytest.raises(OSError):
        (mount.target / "small").read_bytes()
    said = stats(sandbox, mount.target)
    assert said["reads"]["failed"] >= 1 and said["reads"]["answered"] == 0
    assert said["fetch"]["failures"] >= 1 and said["fetch"]["latency"]["count"] == 0
    (store,) = said["stores"]
    assert store["errors"] >= 1 and store["state"] != "good" and store["chunks"] == 0
    for shown in (json.dumps(said), sandbox.run("zerofs", "stats", mount.target).stdout.decode()):
        assert "sesame" not in shown


def test_a_reader_that_waits_is_seen(
    image: Image, mounted: Mounted, sandbox: Sandbox, redis_server: Callable[..., RedisServer]
) -> None:
    """And does not keep who asks from an answer."""
    server = redis_server()
    mount = mounted(image, "--storage-url", server.url, "--timeout", "10")
    os.kill(server.process.pid, signal.SIGSTOP)
    reader = subprocess.Popen(["cat", mount.target / "small"], stdout=subprocess.DEVNULL)
    try:
        while (said := stats(sandbox, mount.target))["reads"]["waited"] == 0:
            pass
        assert said["reads"]["waiting"] == 1 and said["reads"]["answered"] == 0
    finally:
        reader.kill()
        os.kill(server.process.pid, signal.SIGCONT)
        reader.wait()
        mount.allow = ("a read failed",)


def test_two_mounts_of_one_cache_are_two(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    mount = mounted(image)
    other = mounted(image, target=sandbox.directory("other"))
    (mount.target / "big").read_bytes()
    assert stats(sandbox, mount.target)["reads"]["bytes"] == len(BIG)
    assert stats(sandbox, other.target)["reads"]["bytes"] == 0
    listed = {each["target"]: each for each in json.loads(sandbox.run("zerofs", "stats", "--json").stdout)}
    for each in (mount, other):
        assert listed[str(each.target)]["process"] == each.pid and listed[str(each.target)]["owner"] == "root"
        assert listed[str(each.target)]["stats"]["mount"]["process"] == each.pid
    table = sandbox.run("zerofs", "stats").stdout.decode()
    assert f"{mount.target} " in table and f"{other.target} " in table


def test_a_union_is_listed_once_where_it_is_seen(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    mount = mounted(image, "--backend", sandbox.path / "backend")
    bound = sandbox.directory("bound")
    subprocess.run(["mount", "--bind", sandbox.path / "backend" / "ro", bound], check=True)
    try:
        listed = json.loads(sandbox.run("zerofs", "stats", "--json").stdout)
        assert [each["target"] for each in listed if each["process"] == mount.pid] == [str(mount.target)]
    finally:
        subprocess.run(["umount", bound], check=True)


def test_a_daemon(image: Image, sandbox: Sandbox) -> None:
    target = sandbox.directory("mnt")
    sandbox.run(
        "zerofs", "mount", "--daemon", "--log", sandbox.path / "log", "--cache", sandbox.path / "cache",
        "--storage-url", f"dir://{image.store}", image.flist, target,
    )  # fmt: skip
    said = stats(sandbox, target)
    seen = mounted_at(target)
    assert said["mount"]["target"] == str(target) and seen is not None
    assert (SOCKETS / f"{said['mount']['process']}.sock").is_socket()
    sandbox.run("zerofs", "umount", target)
    assert not (SOCKETS / f"{said['mount']['process']}.sock").exists()


def test_after_a_live_swap(
    image: Image, pack: Callable[..., Image], mounted: Mounted, sandbox: Sandbox
) -> None:
    more = pack("more", lambda root: write(root / "new", "new"))
    backend = sandbox.path / "backend"
    mount = mounted(image, "--backend", backend)
    (mount.target / "small").read_bytes()
    (backend / ".layered").write_text(f"{more.flist}\n")
    mount.process.send_signal(signal.SIGHUP)
    while not (mount.target / "new").exists():
        pass
    said = stats(sandbox, mount.target)
    assert said["mount"]["flists"] == [str(image.flist), str(more.flist)]
    assert said["reads"]["bytes"] == 5


def test_the_password_of_a_flist_is_not_shown(image: Image, sandbox: Sandbox) -> None:
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    handler = partial(SimpleHTTPRequestHandler, directory=str(sandbox.path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://user:sesame@127.0.0.1:{server.server_port}/{image.flist.name}"
        mount = sandbox.mount("--ro", "--cache", sandbox.path / "cache", "--meta", url)
        said = sandbox.run("zerofs", "stats", "--json", mount.target).stdout.decode()
        server.shutdown()
    assert "sesame" not in said and image.flist.name in said


# -- where there is nothing to ask -----------------------------------------------------------


def test_nothing_is_mounted_there(sandbox: Sandbox) -> None:
    done = sandbox.run("zerofs", "stats", sandbox.directory("mnt"), status=2)
    assert b"nothing is mounted at" in done.stderr


def test_no_mount_of_a_flist(sandbox: Sandbox) -> None:
    done = sandbox.run("zerofs", "stats", "/proc", status=5)
    assert b"no mount of a flist" in done.stderr


@pytest.mark.parametrize("union", [False, True])
def test_a_dead_process(image: Image, mounted: Mounted, sandbox: Sandbox, union: bool) -> None:
    mount = mounted(image, *([] if union else ["--ro"]), "--backend", sandbox.path / "backend")
    stats(sandbox, mount.target)
    mount.stop(signal.SIGKILL)
    assert (SOCKETS / f"{mount.pid}.sock").exists()
    done = sandbox.run("zerofs", "stats", mount.target, status=5)
    assert b"is dead" in done.stderr and b"zerofs umount" in done.stderr
    assert not (SOCKETS / f"{mount.pid}.sock").exists()
    (listed,) = [
        each
        for each in json.loads(sandbox.run("zerofs", "stats", "--json").stdout)
        if each["process"] == mount.pid
    ]
    assert listed["stats"] is None and "is dead" in listed["problem"]
    assert b"is dead" in sandbox.run("zerofs", "stats").stdout


def test_the_next_mount_sweeps_what_a_killed_one_left(
    image: Image, mounted: Mounted, sandbox: Sandbox
) -> None:
    options = ["--ro", "--backend", sandbox.path / "backend"]
    killed = mounted(image, *options)
    stats(sandbox, killed.target)
    killed.stop(signal.SIGKILL)
    assert (SOCKETS / f"{killed.pid}.sock").exists()
    following = mounted(image, *options, allow=["dead process"])
    stats(sandbox, following.target)
    assert (SOCKETS / f"{following.pid}.sock").exists()
    assert not (SOCKETS / f"{killed.pid}.sock").exists()


def test_a_process_that_does_not_go_on(
    image: Image, mounted: Mounted, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = mounted(image)
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        done = sandbox.run("zerofs", "stats", mount.target, status=5)
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    assert b"does not answer" in done.stderr


def test_a_mount_of_somebody_else(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    mount = mounted(image)
    command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", BINARIES / "zerofs", "stats"]
    done = subprocess.run([*command, mount.target], capture_output=True, text=True, check=False)
    assert done.returncode == 5 and "belongs to user root" in done.stderr
    listed = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{mount.target} belongs to user root" in listed.stdout
    exposed = subprocess.run([*command, "--prometheus"], capture_output=True, text=True, check=True)
    assert str(mount.target) not in exposed.stdout  # neither up nor down


def test_where_the_sockets_of_users_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    assert candidates(0)[0] == Path("/run/zerofs")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/somewhere")
    assert candidates(1000) == [
        Path("/somewhere/zerofs"), Path("/run/user/1000/zerofs"), Path("/tmp/zerofs-1000"),
    ]  # fmt: skip
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert candidates(1000) == [Path("/run/user/1000/zerofs"), Path("/tmp/zerofs-1000")]


# -- top -------------------------------------------------------------------------------------


def test_lines_of_json(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    mount = mounted(image)
    (mount.target / "big").read_bytes()
    done = sandbox.run("zerofs", "top", "--json", "--count", "2", "--interval", "0.05", mount.target)
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["rates"]["reads"]["bytes"] == pytest.approx(len(BIG) / first["seconds"])
    assert first["rates"]["stores"][f"dir://{image.store}"]["chunks"] > 0
    assert second["rates"]["reads"]["bytes"] == 0 and second["rates"]["fetch"]["latency"] == {}
    assert second["stats"]["reads"] == first["stats"]["reads"]


def test_without_a_terminal(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    done = sandbox.run("zerofs", "top", mounted(image).target, status=2)
    assert b"terminal" in done.stderr and b"--json" in done.stderr


def test_top_ends_with_its_mount(image: Image, mounted: Mounted, sandbox: Sandbox) -> None:
    mount = mounted(image)
    command = [BINARIES / "zerofs", "top", "--json", "--interval", "0.05", mount.target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as top:
        assert top.stdout is not None and top.stderr is not None
        assert top.stdout.readline()
        mount.stop()
        assert b"nothing is mounted" in top.stderr.read()
        assert top.wait(10) == 2
