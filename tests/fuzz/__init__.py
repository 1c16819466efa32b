"""Fuzzers over every parser that takes bytes from outside: one module a parser in `parsers`.

Such a module has `target(data)`, which gives the bytes to the parser and asserts what must hold of any bytes: only
errors of the tree leave (`zerofs.errors`), memory and time stay in proportion, and what comes out as valid keeps the
property that its users rely on.  And it has `samples()`, valid inputs from which others are made by mutation.

`test_fuzz` runs each with a small fixed budget, and replays ``corpus/PARSER/*``: inputs that must be refused or that
a fuzzer found, named by the reason.  ``python -m tests.fuzz PARSER`` runs one by coverage for as long as one likes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

CORPUS = Path(__file__).with_name("corpus")
NAMES = sorted(path.stem for path in Path(__file__).with_name("parsers").glob("[a-z]*.py"))


class Harness(NamedTuple):
    """What there is to a parser."""

    target: Callable[[bytes], object]  # False: the input was refused; many do not say
    samples: Callable[[], list[bytes]]


def harness(name: str) -> Harness:
    """That of the parser `name`, one of `NAMES`."""
    module = import_module(f"tests.fuzz.parsers.{name}")
    return Harness(module.target, module.samples)


def kept(name: str) -> list[Path]:
    """The named inputs of the parser."""
    return sorted((CORPUS / name).glob("*"))
