"""Keeping the last tables in a Markdown page: what stands between two marks is replaced."""

from __future__ import annotations

from pathlib import Path

from zerofs.errors import UsageError


def marks(what: str = "") -> tuple[str, str]:
    """The two marks; `what` names them where a page has several places."""
    name = f"measured {what}".strip()
    return f"<!-- {name} -->", f"<!-- end of {name} -->"


def require(path: Path, what: str = "") -> None:
    """Raises UsageError where the page is not there or lacks the marks."""
    _split(path, what)


def put(path: Path, text: str, what: str = "") -> None:
    """Replace what stands between the marks."""
    (begin, end), (before, after) = marks(what), _split(path, what)
    path.write_text(f"{before}{begin}\n{text}{end}{after}")


def _split(path: Path, what: str) -> tuple[str, str]:
    first, last = marks(what)
    try:
        whole = path.read_text()
    except FileNotFoundError:
        raise UsageError(f"there is no page {path}") from None
    before, begin, rest = whole.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise UsageError(f"{path} has no place for tables", hint=f"put {first} and {last} into it")
    return before, after
