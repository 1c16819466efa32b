"""`zerofs completion`: the completions of a shell, made from the parsers of all commands.

The scripts complete commands, options and the choices of options; files everywhere else.
"""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from zerofs.cli import output

if TYPE_CHECKING:
    from zerofs.cli.words import Words

EPILOG = """\
examples:
  zerofs completion bash > /etc/bash_completion.d/zerofs
  zerofs completion zsh > "${fpath[1]}/_zerofs"
  zerofs completion fish > ~/.config/fish/completions/zerofs.fish
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(args: argparse.Namespace) -> int:
    from zerofs.cli.words import all_words

    output.set_up(debug=args.debug)
    words = all_words()
    output.say({"bash": _bash, "zsh": _zsh, "fish": _fish}[args.shell](words))
    return 0


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
