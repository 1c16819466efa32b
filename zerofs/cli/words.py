"""All commands, options and what they take, read from the parsers: for completions and the manual page.

Imports the modules of all commands.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple


class Option(NamedTuple):
    """One option of a command, as a shell needs it."""

    spellings: tuple[str, ...]
    help: str
    choices: tuple[str, ...]
    takes_value: bool


class Words(NamedTuple):
    """What may follow a command: the words of it, such as ``store copy``, and its options."""

    command: tuple[str, ...]
    summary: str
    usage: str
    epilog: str
    options: tuple[Option, ...]
    actions: tuple[str, ...]  # commands below it


def all_words() -> list[Words]:
    """The command itself first, every command below it after it."""
    from zerofs.cli import COMMANDS, build_parser
    from zerofs.cli.mount_options import add_options

    parser = build_parser([name for name, command in COMMANDS.items() if not command.own_parser])
    for action in _subparsers(parser):
        add_options(action.choices["mount"])
    return list(_words((), "", parser))


def _words(command: tuple[str, ...], summary: str, parser: argparse.ArgumentParser) -> Iterator[Words]:
    """The words of `parser` and of all parsers below it."""
    below = _subparsers(parser)
    summaries = {each.dest: each.help or "" for action in below for each in action._choices_actions}
    options = tuple(
        Option(
            tuple(action.option_strings),
            (action.help or "").replace("%%", "%"),
            tuple(map(str, action.choices or ())),
            action.nargs != 0,
        )
        for action in parser._actions
        if action.option_strings and action.help != argparse.SUPPRESS
    )
    yield Words(command, summary, parser.format_usage(), parser.epilog or "", options, tuple(summaries))
    for action in below:
        for name, subparser in action.choices.items():
            yield from _words((*command, name), summaries[name], subparser)


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[Any]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
