"""The command line of a training script: its parser, its sources in order, train()'s arguments.

Synopsis::

    def main(args):
        train(..., **train_kwargs(args), parameters=vars(args))
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any, NoReturn

from igniter import config, flags, subcommands
from igniter.errors import UsageError
from igniter.help_text import EPILOG, HelpFormatter
from igniter.identity import shaping
from igniter.options import Option, end_of_options, key, options, write_out_switches
from igniter.secrets import MASK, is_secret
from igniter.settings import Settings


class Parser(argparse.ArgumentParser):
    """argparse's parser, which can read a source of its own and name it in its errors."""

    _origin = ""
    inputs: tuple[str, ...] = ()

    def error(self, message: str) -> NoReturn:
        """Print the usage and ``message``, with the source it is about, and exit with 2.

        What argparse quotes of the value of a secret argument is masked.
        """
        argument = re.match(r"argument (\S+):", message)
        if argument and any(is_secret(name) for name in argument[1].split("/")):
            message = re.sub("'.*", MASK, message, flags=re.DOTALL)
        super().error(f"{self._origin}: {message}" if self._origin else message)

    def given(self, tokens: Sequence[str], origin: str = "") -> dict[str, Any]:
        """What ``tokens`` themselves set, without defaults; required arguments may be missing.

        ``origin`` is named in an error. Exits like :meth:`parse_args`.
        """
        # Required arguments may come from another source. The two lists are the only way to
        # see them all, and have stayed as they are through every version of argparse.
        demanding: list[Any] = [*self._actions, *self._mutually_exclusive_groups]
        required = [part.required for part in demanding]
        self._origin = origin
        try:
            for part in demanding:
                part.required = False
            namespace, unknown = self.parse_known_args(tokens, _Given())
            if unknown:
                self.error(self._unknown_message(unknown))
        finally:
            self._origin = ""
            for part, was in zip(demanding, required, strict=True):
                part.required = was
        return vars(namespace)

    def options(self) -> dict[str, Option]:
        """Every name a setting can be given by, with ``_`` for ``-``."""
        return options(self._actions)

    def _unknown_message(self, unknown: Sequence[str]) -> str:
        name = unknown[0].partition("=")[0]
        strings = [string for action in self._actions for string in action.option_strings]
        known = {key(string[2:]): string for string in strings if string.startswith("--")}
        hint = ""
        if name.startswith("-"):
            hint = config.nearest(key(name.lstrip("-")), known, lambda near: repr(known[near]))
        # A value may be that of a misspelt secret.
        flags = [token.partition("=")[0] for token in unknown if token.startswith("-")]
        return f"unrecognized arguments: {' '.join(flags or unknown)}{hint}"


class Arguments(argparse.Namespace):
    """The arguments of a script, and beside them which of these are its inputs.

    ``vars`` of it is the arguments alone, which make the run's identity and its parameters.
    """

    __slots__ = ("_inputs",)
    _inputs: tuple[str, ...]


class _Given(argparse.Namespace):
    """Keeps only what is given: argparse sets a default only where an attribute is missing."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)


def build_parser(
    *,
    description: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, Any] | None = None,
    arguments: Callable[[Parser], object] | None = None,
    with_subcommands: bool = False,
) -> Parser:
    """The parser of a training script.

    Args:
        description: Shown at the top of the help.
        inputs: Name → default path; each becomes a flag in the group "Inputs".
        dependencies: The same, in the group "Dependencies".
        arguments: Called with the parser, to add the script's own arguments.
        with_subcommands: Whether ``train``, ``eval`` or ``train-and-eval`` must be given.

    Raises:
        UsageError: Two arguments have one name.
    """
    parser = Parser(
        description=description,
        usage=f"%(prog)s {'SUBCOMMAND ' if with_subcommands else ''}[options]",
        epilog=EPILOG,
        formatter_class=HelpFormatter,
        allow_abbrev=False,
    )
    if with_subcommands:
        subcommands.add_to(parser)
    try:
        for title, paths in (("Inputs", inputs), ("Dependencies", dependencies)):
            if paths:
                _add_paths(parser, title, paths)
        parser.inputs = tuple(map(key, inputs or ()))
        flags.add_arguments(parser)
        # Last, so that its parser.set_defaults can change igniter's defaults.
        if arguments is not None:
            arguments(parser)
    except argparse.ArgumentError as error:
        raise UsageError(
            f"the script adds an argument that is there already: {error}; "
            "leave it out, or give it another name"
        ) from error
    return parser


def _add_paths(parser: Parser, title: str, paths: Mapping[str, Any]) -> None:
    group = parser.add_argument_group(title)
    for name, default in paths.items():
        text = f"path of {name} (default: %(default)s)"
        group.add_argument(
            f"--{name.replace('_', '-')}", default=default, metavar="PATH", help=text
        )


def parse(
    parser: Parser, argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None
) -> argparse.Namespace:
    """The arguments of a script: defaults < YAML files < ``IGNITER_*`` variables < flags.

    ``argv``, without the program's name, and ``environ`` are the process's own by default. Prints
    and exits with 0 for ``--help`` and ``--print-config``, and with 2 for what the parser refuses.

    Raises :class:`UsageError` for a file that cannot be read or an unknown key.
    """
    known = parser.options()
    tokens, switched_off = write_out_switches(sys.argv[1:] if argv is None else argv, known)
    given = parser.given(tokens)
    entries = _entries(parser, known, given, os.environ if environ is None else environ)
    for dest in {*given, *switched_off}:
        entries.pop(dest, None)
    for entry in entries.values():
        parser.given(entry.tokens, entry.origin)
    namespace = parser.parse_args(_insert(tokens, entries.values()), Arguments())
    namespace._inputs = parser.inputs
    if namespace.print_config:
        origins = {entry.dest: entry.origin for entry in entries.values()}
        origins |= dict.fromkeys([*given, *switched_off], "flag")
        print(config.as_yaml(known, vars(namespace), origins), end="")
        parser.exit()
    subcommands.settle(parser, namespace)
    if namespace.eval_batch_size is None:
        namespace.eval_batch_size = namespace.batch_size
    return namespace


def _entries(
    parser: Parser,
    known: Mapping[str, Option],
    given: Mapping[str, Any],
    environ: Mapping[str, str],
) -> dict[str, config.Entry]:
    """The settings from files and variables, by dest, the stronger source's where both have it."""
    variables = config.from_environment(environ, known)
    names = given.get("config")
    if names is None and "config" in variables:
        names = parser.given(variables["config"].tokens)["config"]
    entries: dict[str, config.Entry] = {}
    for name in names or ():
        entries |= config.from_file(name, known)
    return entries | variables


def _insert(tokens: Sequence[str], entries: Iterable[config.Entry]) -> list[str]:
    """``tokens`` with those of ``entries`` behind the flags, where no positional can follow."""
    end = end_of_options(tokens)
    added = [token for entry in entries for token in entry.tokens]
    return [*tokens[:end], *added, *tokens[end:]]


def train_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of ``train`` that the command line decides."""
    given = {
        field.name: getattr(args, field.name)
        for field in fields(Settings)
        if field.name not in ("inputs", "evaluate")
    }
    inputs = {name: getattr(args, name) for name in getattr(args, "_inputs", ())}
    stop_signals = () if args.stop_signals == "none" else tuple(args.stop_signals.split(","))
    return {
        **given,
        "evaluate": subcommands.evaluates(args),
        "inputs": {name: path for name, path in inputs.items() if path is not None},
        "override": tuple(args.override),
        "stop_signals": stop_signals,
        "export": () if args.export == "none" else tuple(args.export.split(",")),
        "identity": shaping(vars(args)),
        "on_interrupt": "raise",
    }
