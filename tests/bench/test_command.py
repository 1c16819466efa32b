"""The benchmark as a program: small trees, one round, everything taken down."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.mounts import mounts_below
from tests.support.sandbox import Sandbox
from zerofs.bench.arguments import choose
from zerofs.bench.scenarios import FETCH, PEERS, SCENARIOS
from zerofs.errors import UsageError

root = pytest.mark.skipif(os.geteuid() != 0, reason="dropping the kernel's caches takes root")


def loops_below(directory):
    """Files in `directory` that loop devices stand on."""
    backing = [path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [name for name in backing if name.startswith(f"{directory}/")]


def processes_below(directory):
    """Processes whose command line names `directory`, but for the benchmark itself."""
    named = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if os.fsencode(directory) + b"/zerofs-bench-" in line:
            named.append(line)
    return named


def assert_nothing_is_left(work):
    assert mounts_below(work) == []
    assert loops_below(work) == []
    assert processes_below(work) == []
    assert list(work.iterdir()) == []


def test_scenarios_are_chosen_by_suite_and_pattern():
    assert [scenario.name for scenario in choose(PEERS, ["walk-*"])] == ["walk-cold", "walk-warm"]
    assert choose(None, None) == list(SCENARIOS)
    assert choose(PEERS, None) + choose(FETCH, None) == list(SCENARIOS)
    with pytest.raises(UsageError):
        choose(FETCH, ["walk-*"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--runs", "none"],
        ["--size", "0"],
        ["--minutes", "-1"],
        ["--minutes", "nan"],
        ["--scenario", "nothing"],
        ["--workdir", "missing"],
        ["--page", "missing"],
        ["friends"],
    ],
    ids=" ".join,
)
def test_a_wrong_call_is_one_line(sandbox: Sandbox, arguments):
    done = sandbox.run("zerofs", "bench", *arguments, status=None)
    assert done.returncode in (2, 6)
    assert len(done.stderr.splitlines()) == 1


def test_too_small_a_disk_is_refused_before_anything_is_made(sandbox: Sandbox):
    done = sandbox.run("zerofs", "bench", "--size", "900T", "--workdir", sandbox.directory("work"), status=6)
    assert b"not the" in done.stderr
    assert list(sandbox.directory("work").iterdir()) == []


def test_a_plot_without_matplotlib_is_refused_with_the_way_to_get_it(tmp_path):
    # an environment without the extra, as a path finder sees it
    program = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'matplotlib' else find(name, *rest)\n"
        "from zerofs.bench import main\n"
        "sys.exit(main(['peers', '--quick', '--plot', 'peers.png']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert b"pip install 'zerofs[bench]'" in done.stderr
    assert list(tmp_path.iterdir()) == []


@root
def test_a_quick_run_measures_everybody_in_everything(sandbox: Sandbox):
    work, kept = sandbox.directory("work"), sandbox.directory("kept")
    options = ["--quick", "--targets", "--json", kept / "all.json", "--workdir", work]
    drawn = importlib.util.find_spec("matplotlib") is not None  # an extra, which need not be installed
    if drawn:
        options += ["--plot", kept / "all.png"]
    done = sandbox.run("zerofs", "bench", *options, timeout=500)
    report = json.loads((kept / "all.json").read_text())
    assert not drawn or (kept / "all.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert [scenario["name"] for scenario in report["scenarios"]] == [scenario.name for scenario in SCENARIOS]
    for scenario in report["scenarios"]:
        rows = {row["subject"]: row for row in scenario["results"]}
        ours_alone = scenario["name"].startswith(("wire-", "million-", "evict", "verify"))
        assert rows.keys() >= ({"zerofs"} if ours_alone else {"zerofs", "llfuse"})
        for name, row in rows.items():
            assert row["failure"] is None, (scenario["name"], name)
            assert row["samples"]["0"] > 0
            if "plain" in rows and name != "plain" and scenario["unit"] != "ratio":
                assert row["ratio_to_plain"]["median"] > 0
    assert "do-nothing" in {row["subject"] for row in report["scenarios"][1]["results"]}
    judged = {verdict["target"] for verdict in report["targets"]}
    assert {"walk, cold", "sequential read, kernel-cold", "no reader starves"} <= judged
    text = done.stdout.decode()
    for said in ("walk-cold", "do-nothing", "×", "targets of zerofs"):
        assert said in text
    assert_nothing_is_left(work)


@root
@pytest.mark.parametrize(
    ("number", "scenario", "moment"),
    [
        (signal.SIGINT, "walk-warm", b"preparing squashfs"),
        (signal.SIGTERM, "walk-warm", b"walk-warm: round 3"),
        (signal.SIGINT, "walk-cold", b"walk-cold: round 1"),
    ],
)
def test_an_interrupted_run_leaves_nothing(sandbox: Sandbox, number, scenario, moment):
    work = sandbox.directory("work")
    command = [sys.executable, "-m", "zerofs.bench", "peers", "--quick", "--runs", "500", "--workdir", work]
    with subprocess.Popen(
        [*command, "--scenario", scenario], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(moment):
                break
        time.sleep(0.05)  # into it
        process.send_signal(number)
        process.send_signal(number)  # a second one does not disturb what is taken down
        said = process.stderr.read()
        assert process.wait(60) == 130, said
    assert_nothing_is_left(work)


@root
def test_a_peer_that_fails_is_reported_and_the_others_go_on(sandbox: Sandbox, monkeypatch):
    work, programs = sandbox.directory("work"), sandbox.directory("programs")
    fake = programs / "squashfuse"
    fake.write_text("#!/bin/sh\necho it broke >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    options = ["--quick", "--json", "--workdir", work, "--scenario", "walk-warm"]
    done = subprocess.run(
        [sys.executable, "-m", "zerofs.bench", "peers", *options], capture_output=True, check=True
    )
    report = json.loads(done.stdout)
    assert "it broke" in report["missing"]["squashfuse"]
    assert {"plain", "zerofs"} <= {row["subject"] for row in report["scenarios"][0]["results"]}
    assert_nothing_is_left(work)
