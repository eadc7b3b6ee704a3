"""`evlib completion`: completion scripts, generated from the parser."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass

from evlib.cli._parser import build_parser


@dataclass(frozen=True)
class _Option:
    """An option of a command."""

    flags: tuple[str, ...]
    help: str
    takes_value: bool
    choices: tuple[str, ...]


@dataclass(frozen=True)
class _Command:
    """A command: its options, and the words that it takes, or files if there are none to choose from."""

    name: str
    help: str
    options: tuple[_Option, ...]
    words: tuple[str, ...]


def run(options: argparse.Namespace) -> int:
    """Print the script of a shell."""
    script = {"bash": _bash, "zsh": _zsh, "fish": _fish}[options.shell]
    print(script(*_model(build_parser())))
    return 0


def _model(parser: argparse.ArgumentParser) -> tuple[list[_Option], list[_Command]]:
    """Options of the program, and its commands."""
    commands = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, command in action.choices.items():
                words = [
                    str(word) for item in command._actions if not item.option_strings for word in item.choices or ()
                ]
                commands.append(_Command(name, helps.get(name, ""), tuple(_options(command)), tuple(words)))
    return _options(parser), commands


def _options(parser: argparse.ArgumentParser) -> list[_Option]:
    return [
        _Option(
            tuple(action.option_strings),
            (action.help or "").replace("%%", "%"),
            action.nargs != 0,
            tuple(str(choice) for choice in action.choices or ()),
        )
        for action in parser._actions
        if action.option_strings
    ]


def _bash(options: list[_Option], commands: list[_Command]) -> str:
    def flags(given: list[_Option] | tuple[_Option, ...]) -> str:
        return " ".join(flag for option in given for flag in option.flags)

    values = {
        "|".join(option.flags): " ".join(option.choices)
        for command in commands
        for option in command.options
        if option.takes_value
    }
    value_cases = "\n".join(
        f'        {pattern}) COMPREPLY=($(compgen -W "{words}" -- "$word")); return ;;'
        for pattern, words in values.items()
    )
    command_cases = "\n".join(
        f'        {command.name}) flags="{flags(command.options)}"; words="{" ".join(command.words)}" ;;'
        for command in commands
    )
    names = " ".join(command.name for command in commands)
    return f"""\
# bash completion of evlib; in ~/.bashrc: eval "$(evlib completion bash)"
_evlib() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} flags words
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        COMPREPLY=($(compgen -W "{names} {flags(options)}" -- "$word"))
        return
    fi
    case ${{COMP_WORDS[COMP_CWORD - 1]}} in
{value_cases}
    esac
    case ${{COMP_WORDS[1]}} in
{command_cases}
    esac
    if [[ $word == -* || -n $words ]]; then
        COMPREPLY=($(compgen -W "$words $flags" -- "$word"))
    fi
}}
complete -o default -F _evlib evlib"""


def _zsh(options: list[_Option], commands: list[_Command]) -> str:
    def escaped(text: str) -> str:
        return text.replace("[", "(").replace("]", ")").replace(":", "\\:")

    def spec(option: _Option) -> list[str]:
        value = f":value:({' '.join(option.choices)})" if option.choices else ":value: " if option.takes_value else ""
        others = f"({' '.join(option.flags)})" if len(option.flags) > 1 else ""
        return [shlex.quote(f"{others}{flag}[{escaped(option.help)}]{value}") for flag in option.flags]

    def arguments(command: _Command) -> str:
        rest = f"1:word:({' '.join(command.words)})" if command.words else "*:file:_files"
        return " ".join([word for option in command.options for word in spec(option)] + [shlex.quote(rest)])

    names = " ".join(shlex.quote(f"{command.name}:{escaped(command.help)}") for command in commands)
    cases = "\n".join(f"        {command.name}) _arguments {arguments(command)} ;;" for command in commands)
    flags = " ".join(flag for option in options for flag in option.flags)
    return f"""\
#compdef evlib
# zsh completion of evlib; in ~/.zshrc, after compinit: eval "$(evlib completion zsh)"
_evlib() {{
    if ((CURRENT == 2)); then
        local -a commands=({names})
        _describe command commands
        compadd -- {flags}
        return
    fi
    shift words
    ((CURRENT--))
    case $words[1] in
{cases}
    esac
}}
if [[ $funcstack[1] == _evlib ]]; then _evlib "$@"; else compdef _evlib evlib; fi"""


def _fish(options: list[_Option], commands: list[_Command]) -> str:
    def line(option: _Option, condition: str) -> str:
        flags = (f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}" for flag in option.flags)
        value = f" -x -a '{' '.join(option.choices)}'" if option.choices else " -x" if option.takes_value else ""
        return f"complete -c evlib -n '{condition}' {' '.join(flags)}{value} -d {_fish_quoted(option.help)}"

    lines = ["# fish completion of evlib; in config.fish: evlib completion fish | source"]
    lines += [line(option, "__fish_use_subcommand") for option in options]
    for command in commands:
        help_ = _fish_quoted(command.help)
        lines.append(f"complete -c evlib -n __fish_use_subcommand -f -a {command.name} -d {help_}")
        seen = f"__fish_seen_subcommand_from {command.name}"
        lines += [line(option, seen) for option in command.options]
        if command.words:
            lines.append(f"complete -c evlib -n '{seen}' -f -a '{' '.join(command.words)}'")
    return "\n".join(lines)


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
