"""A flist in a Redis Cluster: packed into it and read through a mount while its masters die."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.mount.conftest import write
from tests.support.rediscluster import RedisCluster
from tests.support.sandbox import Sandbox

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")

PASSWORD = "correct-horse"
CONTENT = {f"d{n % 7}/f{n:03}": random.Random(n).randbytes(1 + n * 997) for n in range(160)}
CONTENT["big"] = random.Random(999).randbytes(24 * 512 * 1024 + 1234)


def reads_right(target: Path, names: list[str]) -> None:
    for name in names:
        assert (target / name).read_bytes() == CONTENT[name], name


def test_a_whole_flist_is_read_while_a_master_dies_and_comes_back(sandbox: Sandbox, tmp_path: Path) -> None:
    source = sandbox.directory("source")
    for name, content in CONTENT.items():
        write(source / name, content)
    names = sorted(CONTENT, key=lambda name: random.Random(name).random())
    names.remove("big")
    with RedisCluster(tmp_path / "cluster", password=PASSWORD) as cluster:
        flist = sandbox.path / "image.flist"
        url = cluster.url_of(cluster.nodes[:2])
        done = sandbox.run("zerofs", "pack", "--no-router", "--store", url, source, flist)
        assert PASSWORD.encode() not in done.stdout + done.stderr
        cluster.await_replicas()
        victim = cluster.nodes[0]  # one of the two that the URL names
        heir = cluster.replica(victim)
        mounted = sandbox.mount(
            "--ro", "--cache", sandbox.path / "cache", "--meta", flist, "--storage-url", url
        )
        reads_right(mounted.target, names[:40])
        with (mounted.target / "big").open("rb") as big:
            size = len(CONTENT["big"])
            assert big.read(size // 3) == CONTENT["big"][: size // 3]
            victim.stop()
            assert big.read() == CONTENT["big"][size // 3 :]
        reads_right(mounted.target, names[40:80])
        cluster.wait(lambda node: node.role() == "master", "the replica takes over", [heir])
        reads_right(mounted.target, names[80:120])
        victim.start()
        cluster.wait(
            lambda node: b"master_link_status:up" in node.ask("INFO", "replication"), "back", [victim]
        )
        cluster.await_replicas()
        heir.stop()
        reads_right(mounted.target, names[120:])
        mounted.stop()
        assert PASSWORD not in mounted.log()
        assert "a read failed" not in mounted.log()
