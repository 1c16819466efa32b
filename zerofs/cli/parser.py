"""The argument parser of every command."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from zerofs.errors import UsageError


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
