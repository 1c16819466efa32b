"""The suite `coldstart`: what it chooses, what it says, and a small run of it."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys

import pytest

from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from zerofs.bench.arguments import choose_starts
from zerofs.bench.coldstart import STARTS
from zerofs.bench.linkprocess import Passed
from zerofs.bench.measured import measure
from zerofs.bench.report import Run, as_dict, markdown, print_table, print_targets
from zerofs.bench.runner import Result, Row
from zerofs.bench.starts import NAMES, FullPull
from zerofs.bench.targets import START_TARGETS, judge
from zerofs.bench.workloads import Ran
from zerofs.errors import UsageError

root = pytest.mark.skipif(os.geteuid() != 0, reason="dropping the kernel's caches takes root")
BY_NAME = {start.name: start for start in STARTS}
NUMPY = "numpy-20ms-100M"


def row(name, *samples, **details):
    result = Row(name, dict(enumerate(samples)))
    result.details.update({detail: dict(enumerate(values)) for detail, values in details.items()})
    return result


def result(name, *rows):
    return Result(BY_NAME[name], {each.subject: each for each in rows})


def verdicts(*results):
    return {verdict.target.title: verdict for verdict in judge(results, START_TARGETS)}


def test_the_usual_run_is_one_link_without_what_takes_for_ever():
    usual = [start.name for start in choose_starts(None, quick=False)]
    assert NUMPY in usual
    assert all(name.endswith("-20ms-100M") for name in usual)
    assert "read-all-20ms-100M" not in usual


def test_any_start_can_be_named():
    assert len(BY_NAME) == len(STARTS)
    assert [start.name for start in choose_starts(["read-all-*-1G"], quick=False)] == [
        *("read-all-5ms-1G", "read-all-20ms-1G", "read-all-80ms-1G"),
    ]
    with pytest.raises(UsageError):
        choose_starts(["walk-*"], quick=False)


def test_a_start_with_a_profile_is_judged_by_all_it_is_compared_with():
    full, lazy = row("full-pull", 10.0), row("lazy", 3.0)
    found = verdicts(result(NUMPY, full, lazy, row("profile", 0.9, over_floor=[1.6])))
    assert found["a tenth of the full pull"].met
    assert found["half of no prefetch"].met
    assert not found["near what the chunks alone take"].met
    found = verdicts(result(NUMPY, full, lazy, row("profile", 1.6, over_floor=[1.4])))
    assert not found["a tenth of the full pull"].met
    assert not found["half of no prefetch"].met
    assert found["near what the chunks alone take"].met


def test_other_links_and_programs_make_no_such_verdict():
    found = verdicts(result("numpy-5ms-1G", row("full-pull", 10.0), row("profile", 5.0)))
    assert found == {}


def test_the_worst_replay_counts():
    found = verdicts(
        result(NUMPY, row("profile", 1.0, recall=[0.99], precision=[0.91])),
        result("perl-20ms-100M", row("profile", 1.0, recall=[0.9], precision=[0.95])),
    )
    assert found["precision of the replay"].met
    recall = found["recall of the replay"]
    assert not recall.met
    assert (recall.scenario, recall.behind, recall.held) == ("perl-20ms-100M", ("perl-20ms-100M",), 2)


def test_guesses_have_to_spare_a_reader_half_of_its_waits():
    for waits, met in ((50.0, True), (51.0, False)):
        rows = row("lazy", 3.0, waits=[100.0]), row("heuristics", 2.0, waits=[waits])
        assert verdicts(result(NUMPY, *rows))["half of the waits"].met is met


def test_a_warm_start_is_compared_by_its_repetitions():
    rows = row("warm", 9.0, again=[1.01]), row("warm-off", 1.0, again=[1.0])
    assert verdicts(result(NUMPY, *rows))["no slower with prefetch"].met


PASSED = Passed(
    connections=1, requests=40, keys=("aa",), sent=900, received=5000, late_mean=0.0001, late_most=0.002
)


def test_a_sample_is_told_from_its_beginning():
    first, details = measure(100.0, Ran(first=100.5, end=102.0), PASSED, {})
    assert first == 0.5
    assert details == {"end": 2.0, "bytes": 5000.0, "requests": 40.0, "late": 0.002}


def test_what_a_mount_tells_of_its_prefetch_is_part_of_a_sample():
    told = {"precision": 0.9, "recall": 1, "missed": 7, "late": 3, "demanded": 50, "note": "new"}
    _, details = measure(0.0, Ran(1.0, 1.0), PASSED, told)
    assert (details["precision"], details["recall"], details["waits"]) == (0.9, 1.0, 10.0)
    assert "demanded" not in details


@pytest.fixture
def run():
    lazy = row("lazy", 2.0, end=[2.5], bytes=[3 << 20], requests=[40.0], over_floor=[1.25])
    profile = row("profile", 0.5, precision=[0.91], recall=[0.97], waits=[3.0])
    results = [result(NUMPY, row("full-pull", 8.0), lazy, profile)]
    return Run(
        results,
        judge(results, START_TARGETS),
        ["full-pull", "lazy", "profile"],
        {"image": "3 entries"},
        {"heuristics": "this build has no --prefetch heuristics"},
        {"kernel": "6.1", "cpus": 2},
        {},
        base=FullPull.name,
        base_title="the full pull",
    )


def test_the_tables_say_it_all(run):
    output = io.StringIO()
    print_table(run, output)
    print_targets(run, output)
    text = output.getvalue()
    for said in ("the full pull", "×0.25", "ends 2,500 ms", "3.0 MiB, 40 req", "×1.25 of the floor"):
        assert said in text
    for said in ("P 0.91, R 0.97", "3 waits", "no --prefetch heuristics", "profile: half of no prefetch"):
        assert said in text
    assert "2,000 ms<br>×0.25 (0.25–0.25)<br>ends 2,500 ms" in markdown(run)


def test_json_has_every_number(run):
    told = as_dict(run)
    lazy = told["scenarios"][0]["results"][1]
    assert lazy["samples"] == {"0": 2.0}
    assert lazy["ratio_to_full-pull"]["median"] == 0.25
    assert lazy["details"]["requests"] == {"0": 40.0}
    assert {verdict["subject"] for verdict in told["targets"]} == {"profile"}


@root
def test_a_quick_run_starts_everything_there_is(sandbox: Sandbox):
    work, kept = sandbox.directory("work"), sandbox.directory("kept")
    options = ["--quick", "--targets", "--json", kept / "all.json", "--workdir", work]
    drawn = importlib.util.find_spec("matplotlib") is not None  # an extra, which need not be installed
    if drawn:
        options += ["--plot", kept / "all.png"]
    done = sandbox.run("zerofs", "bench", "coldstart", *options, timeout=300)
    report = json.loads((kept / "all.json").read_text())
    assert not drawn or (kept / "all.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [scenario["name"] for scenario in report["scenarios"]] == ["find-5ms-1G", "read-all-5ms-1G"]
    for scenario in report["scenarios"]:
        rows = {each["subject"]: each for each in scenario["results"]}
        assert rows.keys() | report["missing"].keys() >= set(NAMES)
        assert {"full-pull", "lazy", "warm", "warm-off"} <= rows.keys()
        for name, each in rows.items():
            assert each["failure"] is None, name
            assert each["samples"]["0"] > 0
            assert each["details"]["end"]["0"] >= each["samples"]["0"]
        for name in ("warm", "warm-off"):
            assert rows[name]["details"]["requests"]["0"] == 0
            assert rows[name]["details"]["again"]["0"] > 0
    lazy = rows["lazy"]["details"]
    assert lazy["requests"]["0"] > 100
    assert lazy["bytes"]["0"] > 1 << 20
    assert lazy["over_floor"]["0"] > 1
    assert rows["full-pull"]["details"]["bytes"]["0"] > 1 << 20
    assert "×" in done.stdout.decode()
    assert mounts_below(work) == []
    assert list(work.iterdir()) == []


@root
def test_an_interrupted_run_leaves_nothing(sandbox: Sandbox):
    work = sandbox.directory("work")
    options = ["--quick", "--runs", "500", "--scenario", "find-5ms-1G", "--workdir", work]
    command = [sys.executable, "-m", "zerofs.bench", "coldstart", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(b"round 1: find-5ms-1G, lazy"):
                break
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
        assert process.wait(60) == 130, said
    assert mounts_below(work) == []
    assert list(work.iterdir()) == []
