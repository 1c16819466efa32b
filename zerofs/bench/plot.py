"""The picture of a run: for every scenario how many times the plain directory's time each subject takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from zerofs.bench.runner import BASE, Result
from zerofs.errors import UsageError

_COLORS = {
    "zerofs": "#0b6e4f",
    "llfuse": "#6fbf9b",
    "do-nothing": "#999999",
    "squashfuse": "#c1666b",
    "ratarmount": "#e4a672",
    "squashfs": "#4d7ea8",
    "erofs": "#89a7c2",
}
_MARKERS = {"zerofs": "D", "llfuse": "d", "do-nothing": "|"}


def require() -> None:
    """Raises UsageError where nothing can be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise UsageError("a plot takes matplotlib", hint="pip install 'zerofs[bench]'")


def draw(results: Sequence[Result], names: Sequence[str], path: Path) -> None:
    """Write the plot as PNG to `path`: medians, with bars from quartile to quartile, on a logarithmic scale."""
    from matplotlib.figure import Figure

    rows = [result for result in results if any(result.ratio(name) for name in names)]
    figure = Figure(figsize=(11, 1.6 + 0.42 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    drawn = [name for name in names if name != BASE]
    for place, name in enumerate(drawn):
        offset = (place - (len(drawn) - 1) / 2) * 0.7 / max(len(drawn), 1)
        points = [
            (number, ratio) for number, row in enumerate(rows) if (ratio := row.ratio(name)) is not None
        ]
        axes.errorbar(
            [ratio.median for _, ratio in points],
            [number + offset for number, _ in points],
            xerr=(
                [ratio.median - ratio.low for _, ratio in points],
                [ratio.high - ratio.median for _, ratio in points],
            ),
            fmt=_MARKERS.get(name, "o"),
            markersize=6 if name == "zerofs" else 4,
            color=_COLORS.get(name),
            elinewidth=1,
            label=name,
        )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(rows)), [row.scenario.name for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel("times the plain directory's time; left of the line is faster")
    axes.grid(axis="x", which="both", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=len(drawn) or 1, frameon=False)
    figure.savefig(path, format="png", dpi=110)


_START_COLORS = {
    "full-pull": "#999999",
    "lazy": "#c1666b",
    "heuristics": "#e4a672",
    "profile": "#0b6e4f",
    "warm": "#4d7ea8",
}


def draw_starts(results: Sequence[Result], path: Path) -> None:
    """Write the plot of cold starts as PNG to `path`: seconds to the first output, medians with quartiles."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    colors = {
        name: color
        for name, color in _START_COLORS.items()
        if any(name in result.rows and result.rows[name].samples for result in results)
    }
    figure = Figure(figsize=(11, 1.6 + 0.9 * len(results)), layout="constrained")
    axes = figure.add_subplot()
    height = 0.8 / max(len(colors), 1)
    for place, (name, color) in enumerate(colors.items()):
        offset = (place - (len(colors) - 1) / 2) * height
        bars = [
            (number + offset, spread)
            for number, result in enumerate(results)
            if name in result.rows and (spread := result.rows[name].spread) is not None
        ]
        axes.barh(
            [at for at, _ in bars],
            [spread.median for _, spread in bars],
            height,
            xerr=(
                [spread.median - spread.low for _, spread in bars],
                [spread.high - spread.median for _, spread in bars],
            ),
            color=color,
            error_kw={"elinewidth": 1},
            label=name,
        )
    axes.set_xscale("log")
    axes.set_yticks(range(len(results)), [f"{row.scenario.name}\n{row.scenario.title}" for row in results])
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds from the mount command to the first output")
    axes.grid(axis="x", which="both", alpha=0.25)
    figure.legend(loc="outside upper center", ncols=len(colors) or 1, frameon=False)
    figure.savefig(path, format="png", dpi=110)
