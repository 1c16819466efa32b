"""Targets held against results that are made up, and what is said of them."""

import io

import pytest

from zerofs.bench import page
from zerofs.bench.report import Run, as_dict, markdown, print_table, print_targets
from zerofs.bench.runner import Pace, Result, Row
from zerofs.bench.scenarios import SCENARIOS
from zerofs.bench.targets import judge
from zerofs.errors import UsageError

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}


def result(name, **samples):
    rows = {subject.replace("_", "-"): values for subject, values in samples.items()}
    return Result(
        BY_NAME[name],
        {subject: Row(subject, dict(enumerate(values))) for subject, values in rows.items()},
    )


def verdict(results, title):
    (found,) = [verdict for verdict in judge(results) if verdict.target.title == title]
    return found


def test_a_target_is_met_up_to_its_bound():
    for time, met in ((0.5, True), (1.0, True), (1.01, False)):
        found = verdict([result("walk-cold", plain=[1.0] * 3, zerofs=[time] * 3)], "walk, cold")
        assert found.met is met
        assert found.certain


def test_a_speed_is_compared_the_other_way_round():
    slow = [result("seq-kernel-1m", do_nothing=[0.8], zerofs=[1.0])]
    found = verdict(slow, "sequential read, kernel-cold")
    assert found.measured.median == pytest.approx(0.8)
    assert not found.met
    assert found.distance == pytest.approx(1 / 9)
    fast = [result("seq-kernel-1m", do_nothing=[0.91], zerofs=[1.0])]
    assert verdict(fast, "sequential read, kernel-cold").met


def test_a_bound_between_the_quartiles_is_not_certain():
    found = verdict([result("walk-warm", plain=[1.0] * 5, zerofs=[0.8, 0.9, 0.95, 1.1, 1.2])], "walk, warm")
    assert found.met
    assert not found.certain


def test_a_sweep_names_where_it_is_behind():
    results = [
        result("walk-cold", zerofs=[1.0], squashfuse=[2.0]),
        result("mount", zerofs=[3.0], squashfuse=[1.0]),
        result("files-warm", zerofs=[1.2], squashfuse=[1.0]),
    ]
    found = verdict(results, "ahead of squashfuse")
    assert (found.held, found.behind, found.scenario) == (3, ("mount", "files-warm"), "mount")
    assert not found.met


def test_scenarios_that_are_ratios_are_judged_by_themselves():
    results = [result("readers-gain", plain=[9.0], zerofs=[0.9], squashfuse=[0.1])]
    assert verdict(results, "8 readers no slower in total than one").met
    assert not any(found.target.sweep for found in judge(results))


def test_nothing_is_said_of_what_was_not_measured():
    assert judge([]) == []
    assert judge([result("walk-cold", zerofs=[1.0])]) == []
    failed = Result(
        BY_NAME["walk-cold"], {"plain": Row("plain", {0: 1.0}), "zerofs": Row("zerofs", {}, "broken")}
    )
    assert judge([failed]) == []


def test_every_scenario_has_a_name_of_its_own():
    assert len(BY_NAME) == len(SCENARIOS)


def test_a_pace_ends_with_its_rounds_or_with_its_time():
    pace = Pace(most=15, least=5, seconds=10.0)
    assert pace.goes_on(14, 9.0)
    assert not pace.goes_on(15, 0.0)
    assert pace.goes_on(4, 100.0)
    assert not pace.goes_on(5, 100.0)
    assert pace.takes_everybody(4, 100.0)
    assert pace.takes_everybody(14, 4.9)
    assert not pace.takes_everybody(5, 5.1)


@pytest.fixture
def run():
    results = [
        result("walk-cold", plain=[1.0, 1.0], zerofs=[0.5, 0.7], squashfuse=[2.0]),
        Result(BY_NAME["mount"], {"zerofs": Row("zerofs", {}, "broken [here]")}),
    ]
    return Run(
        results,
        judge(results),
        ["plain", "zerofs", "squashfuse"],
        {"image": "3 entries"},
        {"erofs": "mkfs.erofs is not installed"},
        {"kernel": "6.1", "cpus": 2},
        {},
    )


def test_the_tables_say_it_all(run):
    output = io.StringIO()
    print_table(run, output)
    print_targets(run, output)
    text = output.getvalue()
    for said in (
        "×0.60",
        "0.55–0.65",
        "2 rounds, 1 with everybody",
        "failed: zerofs in mount: broken [here]",
    ):
        assert said in text
    assert "not measured: erofs (mkfs.erofs is not installed)" in text
    assert "walk, cold" in text
    assert "ahead in 1 of 1" in text


def test_json_has_every_sample_and_every_verdict(run):
    told = as_dict(run)
    rows = {row["subject"]: row for row in told["scenarios"][0]["results"]}
    assert rows["zerofs"]["samples"] == {"0": 0.5, "1": 0.7}
    assert rows["zerofs"]["ratio_to_plain"]["median"] == 0.6
    assert {verdict["target"]: verdict["met"] for verdict in told["targets"]} == {
        "walk, cold": True,
        "ahead of squashfuse": True,
    }


def test_a_page_keeps_the_last_tables(run, tmp_path):
    path = tmp_path / "page.md"
    (begin, end), (other, other_end) = page.marks(), page.marks("coldstart")
    path.write_text(f"before\n{begin}\nyesterday\n{end}\nafter\n{other}\nanother\n{other_end}\n")
    for _ in range(2):
        page.put(path, markdown(run))
    text = path.read_text()
    assert text.startswith("before\n")
    assert text.endswith(f"after\n{other}\nanother\n{other_end}\n")
    assert "yesterday" not in text
    assert text.count("| walk-cold: find -ls, cold | 1,000 ms | ×0.60 (0.55–0.65) | ×2.00 (2.00–2.00) |") == 1


def test_a_page_without_marks_is_refused(tmp_path):
    (tmp_path / "page.md").write_text("nothing\n")
    for name in ("page.md", "none.md"):
        with pytest.raises(UsageError):
            page.require(tmp_path / name)
