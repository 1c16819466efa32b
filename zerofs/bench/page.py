"""Keeping the last tables in a Markdown page: what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path

from zerofs.errors import UsageError

BEGIN = "<!-- measured -->"
END = "<!-- end of measured -->"


def require(path: Path) -> None:
    """Raises UsageError where the page is not there or lacks the marks."""
    _split(path)


def put(path: Path, text: str) -> None:
    """Replace what stands between the marks."""
    before, after = _split(path)
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")


def _split(path: Path) -> tuple[str, str]:
    try:
        whole = path.read_text()
    except FileNotFoundError:
        raise UsageError(f"there is no page {path}") from None
    before, begin, rest = whole.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UsageError(f"{path} has no place for tables", hint=f"put {BEGIN} and {END} into it")
    return before, after
