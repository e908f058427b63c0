"""How a setting is written on the command line: one flag of any kind, and its tokens."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from igniter.errors import UsageError

COMMAND_LINE_ONLY = frozenset({"help", "print_config", "verify_resume"})
"""The dests of flags that ask for something, and set nothing."""

_ON = frozenset({"true", "yes", "on", "1"})
_OFF = frozenset({"false", "no", "off", "0"})


@dataclass(frozen=True)
class Option:
    """One name of a flag: ``string`` is how it is written on the command line."""

    string: str
    action: argparse.Action
    inverted: bool = False  # "cache", set to false by "--no-cache"

    @property
    def is_switch(self) -> bool:
        """Whether the flag stands alone and means on or off."""
        return isinstance(self.action, argparse.BooleanOptionalAction) or (
            self.action.nargs == 0 and self.action.const is not None
        )

    @property
    def is_followed_by_list(self) -> bool:
        """Whether one flag takes several values."""
        return self.action.nargs not in (None, 0, "?")

    @property
    def is_repeatable(self) -> bool:
        """Whether each repetition of the flag adds a value."""
        probe = argparse.ArgumentParser(add_help=False)
        # argparse keeps the class to itself; what it builds for "append" shows it.
        return isinstance(self.action, type(probe.add_argument("--x", action="append")))

    @property
    def holds_list(self) -> bool:
        """Whether the argument's value is a list."""
        return self.is_followed_by_list or self.is_repeatable

    def switched(self, on: bool) -> tuple[str, ...]:
        """The tokens that switch the flag on or off; none where off is its absence."""
        if on:
            return (self.string,)
        for opposite in (f"--no-{self.string[2:]}", f"--{self.string[5:]}"):
            if opposite != self.string and opposite in self.action.option_strings:
                return (opposite,)
        return ()

    def tokens(self, value: str | list[str] | None) -> tuple[str, ...]:
        """The tokens that set ``value``; None stands for a default of None, and needs no token.

        Raises :class:`UsageError` where the flag cannot take a value of this kind. Whether the
        text itself is fit is for argparse to say.
        """
        name = self.string.lstrip("-")
        if value is None:
            if self.action.default is not None:
                raise UsageError(f"'{name}' has no null; leave it out for its default")
            return ()
        values = value if isinstance(value, list) else [value]
        if self.is_followed_by_list:
            return (self.string, *values)
        if self.is_repeatable:
            return tuple(f"{self.string}={item}" for item in values)
        if isinstance(value, list):
            raise UsageError(f"'{name}' takes one value, not the list {value}")
        if self.is_switch:
            on = switch_value(value)
            if on is None:
                raise UsageError(f"'{name}' is true or false, not '{value}'")
            return self.switched(on != self.inverted)
        if self.action.nargs == 0:
            if not value.isdecimal():
                raise UsageError(f"'{name}' is a count, not '{value}'")
            return (self.string,) * int(value)
        return (f"{self.string}={value}",)


def options(actions: Iterable[argparse.Action]) -> dict[str, Option]:
    """Every name a setting can be given by, with ``_`` for ``-``: its flags' and its dest."""
    found: dict[str, Option] = {}
    for action in actions:
        if action.dest in COMMAND_LINE_ONLY or not action.option_strings:
            continue
        long = [string for string in action.option_strings if string.startswith("--")]
        for string in long:
            found[key(string[2:])] = Option(string, action)
        string = (long or action.option_strings)[0]
        found.setdefault(action.dest, Option(string, action, inverted=action.const is False))
    return found


def key(name: str) -> str:
    """The one spelling of a setting's name; a file may have ``-`` where another has ``_``."""
    return name.replace("-", "_")


def switch_value(text: str) -> bool | None:
    """True or False for one of the words that say so, None for any other text."""
    word = text.strip().lower()
    return True if word in _ON else False if word in _OFF else None


def write_out_switches(
    argv: Sequence[str], known: Mapping[str, Option]
) -> tuple[list[str], set[str]]:
    """Write ``--flag true`` and ``--flag=no`` as argparse knows them.

    SageMaker gives every flag a value, and argparse's switches take none. Also returns the dests
    that were switched off by a flag's absence, which the tokens cannot show.
    """
    switches = {option.string: option for option in known.values() if option.is_switch}
    end = end_of_options(argv)
    tokens: list[str] = []
    off: set[str] = set()
    position = 0
    while position < end:
        token = argv[position]
        string, equals, text = token.partition("=")
        if not equals and position + 1 < end:
            text = argv[position + 1]
        option, on = switches.get(string), switch_value(text)
        if option is None or on is None:
            tokens.append(token)
            position += 1
            continue
        written = option.switched(on)
        tokens = [kept for kept in tokens if kept not in option.action.option_strings]
        tokens += written
        if not written:
            off.add(option.action.dest)
        position += 1 if equals else 2
    return [*tokens, *argv[end:]], off


def end_of_options(tokens: Sequence[str]) -> int:
    """The place of ``--``, after which every token is positional."""
    return tokens.index("--") if "--" in tokens else len(tokens)
