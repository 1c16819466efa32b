"""The benchmark as a program: small trees, one run, everything taken down."""

import json
import os

import pytest

from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from zerofs.bench.command import choose
from zerofs.bench.scenarios import SCENARIOS
from zerofs.errors import UsageError

root = pytest.mark.skipif(os.geteuid() != 0, reason="dropping the kernel's caches takes root")


def test_scenarios_are_chosen_by_pattern():
    assert [scenario.name for scenario in choose(["seq-*"])] == ["seq-cold", "seq-warm", "seq-fetch"]
    assert choose(None) == list(SCENARIOS)
    with pytest.raises(UsageError):
        choose(["nothing-*"])


def test_a_wrong_call_is_one_line(sandbox: Sandbox):
    for arguments in (
        ["--runs", "none"],
        ["--size", "0"],
        ["--scenario", "nothing"],
        ["--workdir", "missing"],
    ):
        done = sandbox.run("zerofs", "bench", *arguments, status=None)
        assert done.returncode in (2, 6)
        assert len(done.stderr.splitlines()) == 1


def test_too_small_a_disk_is_refused_before_anything_is_made(sandbox: Sandbox):
    done = sandbox.run("zerofs", "bench", "--size", "900T", "--workdir", sandbox.directory("work"), status=6)
    assert b"not the" in done.stderr
    assert list(sandbox.directory("work").iterdir()) == []


@root
def test_a_quick_run_measures_everybody_in_everything(sandbox: Sandbox):
    work = sandbox.directory("work")
    done = sandbox.run("zerofs", "bench", "--quick", "--json", "--workdir", work, timeout=300)
    report = json.loads(done.stdout)
    assert [scenario["name"] for scenario in report["scenarios"]] == [scenario.name for scenario in SCENARIOS]
    for scenario in report["scenarios"]:
        rows = {row["subject"]: row for row in scenario["results"]}
        assert "zerofs" in rows
        for name, row in rows.items():
            assert row["failure"] is None, (scenario["name"], name)
            assert row["samples"][0] > 0
            if "plain" in rows and name != "plain":
                assert row["ratio_to_plain"]["median"] > 0
    assert list(work.iterdir()) == []
    assert mounts_below(work) == []


@root
def test_a_table_says_how_everybody_compares(sandbox: Sandbox):
    done = sandbox.run(
        "zerofs", "bench", "--quick", "--scenario", "walk-*", "--workdir", sandbox.path, timeout=300
    )
    text = done.stdout.decode()
    assert "walk-cold" in text
    assert "zerofs" in text
    assert "×" in text
