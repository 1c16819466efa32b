"""The results: a table for people, JSON for programs.

A cell of the table holds the median and, below it, how many times the plain directory's time that is, with
the least and the greatest ratio of the runs.  A ratio under 1 is faster than the plain directory.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import IO, Any

from zerofs.bench.runner import Result, Row
from zerofs.bench.samples import Spread
from zerofs.bench.subjects import SUBJECTS

_WIDTH = 140  # of a table that goes to no terminal


def _quantity(value: float, unit: str) -> str:
    if unit != "s":
        return f"{value:.1f} {unit}"
    if value >= 10:
        return f"{value:,.1f} s"
    return f"{value * 1000:,.{0 if value >= 0.1 else 1}f} ms"


def _times(value: Spread) -> str:
    text = f"×{value.median:.2f}"
    return text if value.low == value.high else f"{text} ({value.low:.2f}–{value.high:.2f})"


def _cell(result: Result, row: Row | None) -> str:
    if row is None:
        return ""
    if row.spread is None:
        return "failed"
    text = _quantity(row.spread.median, result.scenario.unit)
    compared = result.ratio(row)
    return text if compared is None else f"{text}\n{_times(compared)}"


def print_table(
    results: Sequence[Result],
    origins: Mapping[str, str],
    missing: Mapping[str, str],
    output: IO[str] = sys.stdout,
) -> None:
    """The table, then what took no part and why, and what failed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console(file=output, width=None if output.isatty() else _WIDTH, highlight=False)
    present = {row.subject for result in results for row in result.rows}
    names = [kind.name for kind in SUBJECTS if kind.name in present]
    table = Table(
        box=SIMPLE_HEAD, title="medians; × the plain directory, median (least–greatest of the runs)"
    )
    table.add_column("scenario", no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", style="bold" if name == "zerofs" else "")
    for result in results:
        cells = [_cell(result, result.row(name)) for name in names]
        table.add_row(f"{result.scenario.name}\n[dim]{result.scenario.title}[/dim]", *cells)
    console.print(table)
    for name, origin in origins.items():
        console.print(f"{name}: {origin}")
    for name, why in missing.items():
        console.print(f"not measured: {name} ({why})")
    for result in results:
        for row in result.rows:
            if row.failure is not None:
                console.print(f"failed: {row.subject} in {result.scenario.name}: {row.failure}", markup=False)


def _row(result: Result, row: Row) -> dict[str, Any]:
    compared = result.ratio(row)
    return {
        "subject": row.subject,
        "samples": [round(value, 6) for value in row.samples],
        "spread": row.spread.as_dict() if row.spread else None,
        "ratio_to_plain": compared.as_dict() if compared else None,
        "failure": row.failure,
    }


def as_dict(
    results: Sequence[Result],
    origins: Mapping[str, str],
    missing: Mapping[str, str],
    machine: Mapping[str, object],
    settings: Mapping[str, object],
) -> dict[str, Any]:
    """Everything that is in the table, and every sample, with the machine and the settings."""
    return {
        "machine": dict(machine),
        "settings": dict(settings),
        "corpora": dict(origins),
        "missing": dict(missing),
        "scenarios": [
            {
                "name": result.scenario.name,
                "title": result.scenario.title,
                "unit": result.scenario.unit,
                "results": [_row(result, row) for row in result.rows],
            }
            for result in results
        ],
    }
