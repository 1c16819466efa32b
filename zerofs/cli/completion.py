"""`zerofs completion`: the completions of a shell, made from the parsers of all commands.

The scripts complete commands, options and the choices of options; files everywhere else.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from zerofs.cli import output

EPILOG = """\
examples:
  zerofs completion bash > /etc/bash_completion.d/zerofs
  zerofs completion zsh > "${fpath[1]}/_zerofs"
  zerofs completion fish > ~/.config/fish/completions/zerofs.fish
"""


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
    options: tuple[Option, ...]
    actions: tuple[str, ...]  # commands below it


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    from zerofs.cli import COMMANDS, build_parser
    from zerofs.cli.mount_options import add_options

    output.set_up(debug=args.debug)
    parser = build_parser([name for name, command in COMMANDS.items() if not command.own_parser])
    for action in _subparsers(parser):
        add_options(action.choices["mount"])
    words = list(_words((), "", parser))
    output.say({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words))
    return 0


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
        if action.option_strings
    )
    yield Words(command, summary, options, tuple(summaries))
    for action in below:
        for name, subparser in action.choices.items():
            yield from _words((*command, name), summaries[name], subparser)


def _subparsers(parser: argparse.ArgumentParser) -> list[argparse._SubParsersAction[Any]]:
    return [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]


def _bash(words: list[Words]) -> str:
    cases = []
    for each in words:
        spellings = [spelling for option in each.options for spelling in option.spellings]
        cases.append(f'    "{" ".join(each.command)}") words="{" ".join((*each.actions, *spellings))}" ;;')
    choices = {
        option.spellings: option.choices for each in words for option in each.options if option.choices
    }
    values = [f'    {"|".join(names)}) words="{" ".join(values)}" ;;' for names, values in choices.items()]
    commands = "|".join(" ".join(each.command) for each in words if each.command)
    return "\n".join(
        [
            "_zerofs() {",
            '  local words="" command="" word current="${COMP_WORDS[COMP_CWORD]}"',
            '  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do',
            f'    case "${{command:+$command }}$word" in {commands.replace(" ", chr(92) + " ")})',
            '      command="${command:+$command }$word" ;;',
            "    esac",
            "  done",
            '  case "$command" in',
            *cases,
            "  esac",
            '  case "${COMP_WORDS[COMP_CWORD-1]}" in',
            *values,
            "  esac",
            '  COMPREPLY=($(compgen -W "$words" -- "$current"))',
            "}",
            "complete -o default -o bashdefault -F _zerofs zerofs",
        ]
    )


def _zsh(words: list[Words]) -> str:
    """The completion of bash, by the shell's own bridge."""
    return "#compdef zerofs\nautoload -U +X bashcompinit && bashcompinit\n" + _bash(words)


def _fish(words: list[Words]) -> str:
    lines = []
    for each in words:
        seen = "; and ".join(f"__fish_seen_subcommand_from {word}" for word in each.command)
        condition = f"-n '{seen}'" if seen else "-n __fish_use_subcommand"
        for action in each.actions:
            summary = next(other.summary for other in words if other.command == (*each.command, action))
            lines.append(f"complete -c zerofs -f {condition} -a {action} -d {_quoted(summary)}")
        for option in each.options:
            spelt = " ".join(
                f"-l {spelling[2:]}" if spelling.startswith("--") else f"-s {spelling[1:]}"
                for spelling in option.spellings
                if re.fullmatch(r"--[\w-]+|-\w", spelling)
            )
            value = f" -x -a {_quoted(' '.join(option.choices))}" if option.choices else " -r"
            value = value if option.takes_value else ""
            lines.append(f"complete -c zerofs {condition} {spelt}{value} -d {_quoted(option.help)}")
    return "\n".join(lines)


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
