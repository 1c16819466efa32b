"""What a mount said that no test asked for."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LOUD = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|^Traceback |^Exception |^zerofs: |Fatal Python error")


def unexpected(text: str, allowed: Iterable[str] = ()) -> list[str]:
    """The lines of a log at WARNING and above, and of a crash, that match none of the `allowed` patterns."""
    patterns = [re.compile(pattern) for pattern in allowed]
    return [
        line
        for line in text.splitlines()
        if _LOUD.search(line) and not any(pattern.search(line) for pattern in patterns)
    ]
