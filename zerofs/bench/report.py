"""The results: tables for people, the same as Markdown for a page, JSON for programs.

A cell holds the median and, below it, how many times the base's time that is, with the quartiles of the
rounds.  A ratio under 1 is faster than the base: the plain directory or, of a cold start, the full pull.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any, NamedTuple

from zerofs.bench.runner import BASE, Result, Row
from zerofs.bench.samples import Spread
from zerofs.bench.targets import SUBJECT, Target, Verdict

_WIDTH = 170  # of a table that goes to no terminal


class Run(NamedTuple):
    """All there is to report."""

    results: Sequence[Result]
    verdicts: Sequence[Verdict]
    names: Sequence[str]  # of those that took part, in the order of the columns
    origins: Mapping[str, str]
    missing: Mapping[str, str]
    machine: Mapping[str, object]
    settings: Mapping[str, object]
    base: str = BASE
    base_title: str = "the plain directory"

    def failures(self) -> list[tuple[str, Row]]:
        """(scenario, row) of whoever failed."""
        return [
            (result.scenario.name, row)
            for result in self.results
            for row in result.rows.values()
            if row.failure is not None
        ]


def _quantity(value: float, unit: str) -> str:
    if unit == "ratio":
        return f"×{value:.2f}"
    if unit != "s":
        return f"{value:.1f} {unit}"
    if value >= 10:
        return f"{value:,.1f} s"
    return f"{value * 1000:,.{0 if value >= 0.1 else 1}f} ms"


def _range(value: Spread) -> str:
    return f"{value.low:.2f}–{value.high:.2f}"


def _cell(result: Result, name: str, base: str) -> str:
    row = result.rows.get(name)
    if row is None:
        return ""
    if row.spread is None:
        return "failed"
    text = _quantity(row.spread.median, result.scenario.unit)
    if (compared := result.ratio(name, base)) is not None:
        text += f"\n×{compared.median:.2f}\n[dim]{_range(compared)}[/dim]"
    return "\n".join((text, *_details(row)))


def _details(row: Row) -> list[str]:
    """What else was measured, in lines: medians."""
    found = {name: value.median for name in row.details if (value := row.of(name)) is not None}
    lines = []
    if "end" in found:
        lines.append(f"ends {_quantity(found['end'], 's')}")
    if "bytes" in found:
        lines.append(f"{found['bytes'] / 2**20:,.1f} MiB, {found['requests']:,.0f} req")
    if "again" in found:
        lines.append(f"again {_quantity(found['again'], 's')}")
    if "precision" in found and "recall" in found:
        lines.append(f"P {found['precision']:.2f}, R {found['recall']:.2f}")
    if "waits" in found:
        lines.append(f"{found['waits']:,.0f} waits")
    if "over_floor" in found:
        lines.append(f"×{found['over_floor']:.2f} of the floor")
    return lines


def print_table(run: Run, output: IO[str] = sys.stdout) -> None:
    """The table, then what took no part and why, and what failed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(file=output, width=None if output.isatty() else _WIDTH, highlight=False)
    table = Table(box=SIMPLE_HEAD, title=f"medians; × {run.base_title}, median and quartiles of the rounds")
    table.add_column("scenario", no_wrap=True)
    for name in run.names:
        table.add_column(name, justify="right", style="bold" if name == SUBJECT else "")
    for result in run.results:
        head = f"{result.scenario.name}\n[dim]{result.scenario.title}\n{_rounds(result)}[/dim]"
        table.add_row(head, *(_cell(result, name, run.base) for name in run.names))
    console.print(table)
    for name, origin in run.origins.items():
        console.print(f"{name}: {origin}")
    for name, why in run.missing.items():
        console.print(f"not measured: {name} ({why})", markup=False)
    for scenario, row in run.failures():
        console.print(f"failed: {row.subject} in {scenario}: {row.failure}", markup=False)


def _rounds(result: Result) -> str:
    counts = [len(row.samples) for row in result.rows.values() if row.failure is None]
    if not counts:
        return ""
    least, most = min(counts), max(counts)
    return f"{most} rounds" if least == most else f"{most} rounds, {least} with everybody"


def print_targets(run: Run, output: IO[str] = sys.stdout) -> None:
    """The targets, and by how much each is met or missed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(file=output, width=None if output.isatty() else _WIDTH, highlight=False)
    table = Table(box=SIMPLE_HEAD, title=f"targets of {SUBJECT}; median and quartiles of the rounds")
    for name in _TARGET_HEAD:
        table.add_column(name)
    for verdict in run.verdicts:
        table.add_row(*_target_cells(verdict))
    console.print(table)


_TARGET_HEAD = ("target", "scenario", "bound", "measured", "verdict")


def _target_cells(verdict: Verdict) -> tuple[str, str, str, str, str]:
    target, measured = verdict.target, verdict.measured
    subject = "" if target.subject == SUBJECT else f"{target.subject}: "
    return (
        f"{subject}{target.title}",
        f"worst: {verdict.scenario}" if target.sweep else verdict.scenario,
        _bound(target),
        f"{measured.median:.2f} ({_range(measured)})",
        _verdict(verdict),
    )


def _bound(target: Target) -> str:
    sign = "≥" if target.speed else "≤"
    if target.base is None:
        return f"{sign} {target.bound:.2f}"
    return f"{sign} {target.bound:.2f} {'of the speed of ' if target.speed else ''}{target.base}"


def _verdict(verdict: Verdict) -> str:
    text = "met" if verdict.met else f"missed by {_distance(verdict.distance)}"
    if verdict.target.sweep:
        text += f"; ahead in {verdict.held - len(verdict.behind)} of {verdict.held}"
        if verdict.behind:
            text += f", not in {', '.join(verdict.behind)}"
    elif not verdict.certain:
        text += ", within the quartiles"
    return text


def _distance(distance: float) -> str:
    return f"{distance:.0%}" if distance < 1 else f"a factor of {distance + 1:.1f}"


def markdown(run: Run) -> str:
    """Both tables for a page; of the subjects' times only the ratios."""
    lines = [
        f"Linux {run.machine['kernel']}, {run.machine['cpus']} processors; "
        + "; ".join(f"{name}: {origin}" for name, origin in run.origins.items()),
        "",
        *_lines(("scenario", *run.names), [_markdown_row(run, result) for result in run.results]),
    ]
    lines += [f"Not measured: {name} ({why})." for name, why in run.missing.items()]
    if run.verdicts:
        lines += ["", *_lines(_TARGET_HEAD, [_target_cells(verdict) for verdict in run.verdicts])]
    return "\n".join(lines) + "\n"


def _markdown_row(run: Run, result: Result) -> list[str]:
    cells = []
    for name in run.names:
        row, compared = result.rows.get(name), result.ratio(name, run.base)
        parts = [] if row is None else _details(row)
        if compared is not None:
            parts.insert(0, f"×{compared.median:.2f} ({_range(compared)})")
        if row is not None and (compared is None or parts[1:]):
            parts.insert(0, _quantity(row.spread.median, result.scenario.unit) if row.spread else "failed")
        cells.append("<br>".join(parts))
    return [f"{result.scenario.name}: {result.scenario.title}", *cells]


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    rule = ["---"] * len(head) if head == _TARGET_HEAD else ["---", *("---:" for _ in head[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (head, rule, *rows)]


def _row(result: Result, row: Row, base: str) -> dict[str, Any]:
    compared = result.ratio(row.subject, base)
    return {
        "subject": row.subject,
        "samples": _by_round(row.samples),
        "spread": row.spread.as_dict() if row.spread else None,
        f"ratio_to_{base}": compared.as_dict() if compared else None,
        "failure": row.failure,
    } | ({"details": {name: _by_round(row.values(name)) for name in row.details}} if row.details else {})


def _by_round(values: Mapping[int, float]) -> dict[str, float]:
    return {str(number): round(value, 6) for number, value in values.items()}


def as_dict(run: Run) -> dict[str, Any]:
    """Everything that is in the tables, and every sample, with the machine and the settings."""
    return {
        "machine": dict(run.machine),
        "settings": dict(run.settings),
        "corpora": dict(run.origins),
        "missing": dict(run.missing),
        "scenarios": [
            {
                "name": result.scenario.name,
                "title": result.scenario.title,
                "unit": result.scenario.unit,
                "results": [_row(result, row, run.base) for row in result.rows.values()],
            }
            for result in run.results
        ],
        "targets": [verdict.as_dict() for verdict in run.verdicts],
    }
