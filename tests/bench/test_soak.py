"""The soak as a program: a few seconds of it, and that it can fail."""

import json
import os
import random
import subprocess
import sys

import pytest

from tests.support.mounts import mounts_below
from zerofs.bench.soak.cache import Watched, fsck
from zerofs.bench.soak.command import run
from zerofs.bench.soak.outcome import Outcome
from zerofs.bench.soak.reader import Readings
from zerofs.bench.soak.tree import differences, make_tree
from zerofs.cache.lmdb import ChunkCache

root = pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
QUIET = Readings(1, 1, 1, {}, [], 0, 0, 0, 0.1)
QUIET_CACHE = Watched(bound=8, file=8, used=8, evicted=1)


@root
def test_a_short_soak(tmp_path):
    sizes = ["--size", "2M", "--cache-size", "2M", "--readers", "1", "--timeout", "2"]
    command = [sys.executable, "-m", "zerofs.bench", "soak", "--minutes", "0.05", "--seed", "3", "--json"]
    done = subprocess.run(
        [*command, *sizes, "--workdir", tmp_path], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done
    outcome = json.loads(done.stdout)
    assert sum(outcome["faults"].values()) >= 3 and outcome["operations"] and outcome["checks"] == 1
    assert outcome["cache"]["bound"] == 2 << 20 >= outcome["cache"]["file"] > 0
    assert outcome["proofs"] == 1 and outcome["cache_damage"] == []
    assert mounts_below(tmp_path) == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "seen",
    [{"wrong": ["f1"], "wrong_count": 1}, {"late": 1}, {"stuck": 1}, {"errors": {"ENOENT": 1}}],
)
def test_what_fails_it(seen):
    outcome = Outcome(1, "fast", False, 5.0)
    outcome.add(QUIET._replace(errors={"EIO": 3}), ["EIO"])
    assert not outcome.failed
    outcome.add(QUIET._replace(**seen), ["EIO"])
    assert outcome.failed


def test_a_cache_beyond_its_bound_or_damaged_fails_it():
    for more in (
        {"cache": Watched(bound=8, file=9, used=8, evicted=0)},
        {"cache": Watched(bound=8, file=8, used=9, evicted=0)},
        {"cache_damage": ["00: damaged"]},
    ):
        assert Outcome(1, "fast", False, 5.0, **more).failed
    assert not Outcome(1, "fast", False, 5.0, cache=QUIET_CACHE).failed


@pytest.mark.parametrize("lost", [0, 1])
def test_the_log_of_a_run_that_failed_is_left(lost, tmp_path, monkeypatch, capsys):
    def soak(workdir, settings, *_):
        (workdir / "mount.log").write_text("why")
        return Outcome(settings.seed, "fast", True, 5.0, cache=QUIET_CACHE, lost=lost)

    monkeypatch.setattr("zerofs.bench.soak.command.soak", soak)
    assert run(["--workdir", str(tmp_path), "--json"]) == lost
    left = list(tmp_path.iterdir())
    assert [(place / "mount.log").read_text() for place in left] == ["why"] * lost
    assert all(str(place) in capsys.readouterr().err for place in left)


def test_fsck_tells_of_what_has_rotted(tmp_path):
    name, plain = b"\0unknown", bytes(range(256)) * 64
    with ChunkCache(tmp_path, size_limit=4 << 20) as cache:
        cache.put_many([(name, plain)])
    assert fsck(tmp_path) == []
    data = (tmp_path / "data.mdb").read_bytes()
    at = data.index(plain)
    (tmp_path / "data.mdb").write_bytes(data[:at] + b"?" + data[at + 1 :])
    assert fsck(tmp_path) == [f"{name.hex()}: damaged"]
    assert fsck(tmp_path, repair=True) == [f"{name.hex()}: damaged"]
    assert fsck(tmp_path) == []


def test_trees_that_differ(tmp_path):
    for name in ("one", "two"):
        make_tree(tmp_path / name, random.Random(1), 1 << 20)
    assert list(differences(tmp_path / "one", tmp_path / "two")) == []
    victim = max((tmp_path / "two").rglob("f*"), key=lambda path: path.stat().st_size)
    status = victim.stat()
    victim.write_bytes(victim.read_bytes()[:-1] + b"?")
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert [line.partition(": ")[2] for line in differences(tmp_path / "one", tmp_path / "two")] == [
        "wrong bytes"
    ]
