"""``train.py train``, ``eval`` and ``train-and-eval``, for a script that asks for them."""

from __future__ import annotations

import argparse

TRAIN, EVAL, BOTH = "train", "eval", "train-and-eval"

_TEXT = (
    f"{TRAIN}: train, without evaluations; {EVAL}: train nothing, run the evaluations on what was "
    f"trained, as --eval-only; {BOTH}: train, and evaluate as --eval-every says"
)


def add_to(parser: argparse.ArgumentParser) -> None:
    """Make the subcommand the parser's first positional argument; flags may stand round it."""
    group = parser.add_argument_group("Subcommand")
    group.add_argument("subcommand", choices=(TRAIN, EVAL, BOTH), help=_TEXT)


def settle(parser: argparse.ArgumentParser, namespace: argparse.Namespace) -> None:
    """See that the subcommand and ``--eval-only`` agree, and set ``eval_only`` for ``eval``.

    Prints and exits with 2 where they do not.
    """
    asked = getattr(namespace, "subcommand", None)
    if asked == EVAL:
        namespace.eval_only = True
    elif asked is not None and namespace.eval_only:
        parser.error(f"the subcommand {asked} trains, and --eval-only does not; use {EVAL} alone")


def evaluates(namespace: argparse.Namespace) -> bool:
    """Whether training is to evaluate."""
    return getattr(namespace, "subcommand", None) != TRAIN
