"""The argument parser of every command."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from zerofs.errors import UsageError


def given(text: str) -> str:
    """A name on the command line.  An empty one, which a variable without a value leaves, would mean this directory."""
    if not text:
        raise argparse.ArgumentTypeError("the name is empty")
    return text


def path(text: str) -> Path:
    """The same as a path."""
    return Path(given(text))


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are a :class:`UsageError`: one line, no usage dump.

    An option given again takes the place of the common one of that name (`mount` has its own `--debug`).
    """

    def __init__(self, *args: Any, **keywords: Any) -> None:
        keywords.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        keywords.setdefault("conflict_handler", "resolve")
        keywords.setdefault("allow_abbrev", False)
        super().__init__(*args, **keywords)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")
