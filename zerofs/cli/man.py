"""`zerofs man`: the manual page, made from the parsers of all commands."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zerofs import __version__
from zerofs.cli import output

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zerofs.cli.words import Option, Words

EPILOG = """\
examples:
  zerofs man > /usr/local/share/man/man1/zerofs.1
  zerofs man | man -l -
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG


def run(args: argparse.Namespace) -> int:
    from zerofs.cli.words import all_words

    output.set_up(debug=args.debug)
    output.say("\n".join(_page(all_words())))
    return 0


def _page(words: list[Words]) -> Iterator[str]:
    whole, *commands = words
    yield f'.TH ZEROFS 1 "" "zerofs {__version__}"'
    yield from (".SH NAME", r"zerofs \- mount flists, make them, look into them")
    yield from (".SH SYNOPSIS", ".B zerofs", r"\fICOMMAND\fR [\fIOPTION\fR]\&...")
    yield from (".SH OPTIONS", *_options(whole.options))
    yield ".SH COMMANDS"
    for each in commands:
        yield f".SS {_text(' '.join(each.command))}"
        yield _text(each.summary[:1].upper() + each.summary[1:] + ".")
        yield from (".PP", ".nf", _text(each.usage.rstrip()), ".fi")
        yield from _options(each.options)
        if each.epilog:
            yield from (".PP", ".nf", _text(each.epilog.rstrip()), ".fi")
    yield from (".SH NOTES", ".nf", _text(whole.epilog.rstrip()), ".fi")


def _options(options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        yield ".TP"
        yield ".B " + _text(", ".join(option.spellings))
        yield _text(option.help)


def _text(text: str) -> str:
    """`text` as roff shows it: no line of it begins a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in escaped.split("\n"))
