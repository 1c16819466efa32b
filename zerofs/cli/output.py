"""How commands speak: results on standard output, everything else on standard error.

Names are bytes and come from outside: they are printed as they are, but for control characters, which a
terminal would obey.  JSON follows the listings of the golden flists: bytes that are not UTF-8 are lone
surrogates.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence

from zerofs.flist.model import Kind

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class _StandardError:
    """Standard error as it is when something is written: a bar on it makes way for whole lines."""

    def write(self, text: str) -> object:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def set_up(*, debug: bool = False) -> None:
    """Let standard output take any name, and log warnings (everything with `debug`) as lines on stderr."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING,
        format="%(name)s: %(message)s" if debug else "zerofs: %(message)s",
        stream=_StandardError(),
    )


def say(text: str = "") -> None:
    """One line of the result."""
    sys.stdout.write(text + "\n")


def warn(text: str) -> None:
    """One line that does not belong to the result."""
    sys.stderr.write(f"zerofs: warning: {text}\n")


def say_json(value: object) -> None:
    """The result as one line of JSON."""
    say(json.dumps(value, ensure_ascii=True, sort_keys=True))


def text(name: bytes) -> str:
    """A name for JSON: nothing is lost."""
    return name.decode("utf-8", "surrogateescape")


def shown(name: bytes) -> str:
    """A name for people: control characters and backslashes escaped as in C."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text(name))


def told(text: str) -> str:
    """What another process says, for people: it may hold what no name has, such as halves of characters."""
    try:
        return shown(os.fsencode(text))
    except UnicodeEncodeError:
        return shown(text.encode("utf-8", "backslashreplace"))


def size(number: float) -> str:
    """Bytes for people."""
    unit = _UNITS[0]
    for unit in _UNITS:
        if number < 1024 or unit == _UNITS[-1]:
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def kinds(counts: Mapping[Kind, int]) -> dict[str, int]:
    """Counts by kind, for JSON."""
    return {kind.name.lower(): number for kind, number in counts.items()}


def examples(paths: Sequence[bytes], number: int) -> str:
    """The first of `number` paths, for people."""
    names = ", ".join(shown(path) or "." for path in paths)
    return f"{names}, …" if number > len(paths) else names


def path_argument(argument: str) -> bytes:
    """A path of a flist as the user gave it."""
    return os.fsencode(argument)
