"""Numbers in the command lines of the benchmark and the soak."""

from __future__ import annotations

from zerofs.errors import UsageError


def above_zero(text: str) -> float:
    """Minutes or seconds, as somebody would wait for them."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 10_000:
        raise UsageError(f"not a number above 0: {text!r}")
    return value
