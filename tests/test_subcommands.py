"""``train.py train``, ``eval`` and ``train-and-eval``: what each runs, on one and the same run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
from support import Done, Zygote, assert_same_run, points

from igniter.args import Parser, build_parser, parse, train_kwargs

QUIET = ("--no-mlflow", "--max-epochs", "3", "--log-every", "1")


def start(zygote: Zygote, cwd: Path, *argv: object, **env: str) -> Done:
    """Start the script that has subcommands."""
    cwd.mkdir(exist_ok=True)
    settings = {"TEST_SUBCOMMANDS": "1", "TEST_DO": "", **env}
    return zygote.run("evaluated.py", *argv, cwd=cwd, env=settings)


def returned(cwd: Path) -> dict[str, Any]:
    """What train() returned in the last process there."""
    return json.loads((cwd / "returned.json").read_text(encoding="utf-8"))


def read(*argv: str, environ: dict[str, str] | None = None) -> argparse.Namespace:
    """Parse ``argv`` as a script with subcommands does."""
    return parse(build_parser(with_subcommands=True), argv, environ or {})


def test_each_on_the_same_run(zygote: Zygote, tmp_path: Path) -> None:
    """``train`` evaluates nothing, ``eval`` finds what it saved, ``train-and-eval`` does both.

    Without an output directory: the subcommand is not part of the identity. Trap: `eval` does not
    find what `train` saved (PI).
    """
    one, other = tmp_path / "one", tmp_path / "other"
    done = start(zygote, one, "train", *QUIET)
    assert done.code == 0, done
    assert returned(one)["steps"] == {"train": 15, "eval": 0}
    (run,) = (one / "output").iterdir()
    assert {name for _, name, _ in points(run)} == {"train/loss", "train/loss_epoch", "lr", "epoch"}

    assert start(zygote, one, *QUIET, "eval").code == 0
    evaluated = returned(one)
    assert evaluated["steps"] == {"train": 0, "eval": 5}

    assert start(zygote, other, "train-and-eval", *QUIET).code == 0
    assert returned(other)["steps"] == {"train": 15, "eval": 15}
    (both,) = (other / "output").iterdir()
    assert both.name == run.name
    logged = {name: value for i, name, value in points(both) if i == 15}
    assert {name: repr(value) for name, value in evaluated["metrics"].items()} == {
        "eval/loss": logged["eval/loss"]
    }


def test_from_one_to_the_other(zygote: Zygote, tmp_path: Path) -> None:
    """A run stopped under ``train`` goes on under ``train-and-eval`` to the same weights."""
    flags = (*QUIET, "--output-dir", "run")
    assert start(zygote, tmp_path / "a", "train-and-eval", *flags).code == 0
    there = tmp_path / "b"
    done = start(zygote, there, "train", *flags, "--stop-after", "0.0001 s")
    assert done.code == 143, done
    assert "evaluated.py train --no-mlflow" in done.out.splitlines()[-1]
    assert start(zygote, there, "eval", *flags).code == 0
    assert start(zygote, there, "train-and-eval", *flags).code == 0
    assert_same_run(tmp_path / "a/run", there / "run")


def test_help_and_usage(capsys: pytest.CaptureFixture[str]) -> None:
    """The help lists them with what they do, and without one the program ends with 2."""
    with pytest.raises(SystemExit) as caught:
        read("--help")
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "SUBCOMMAND [options]" in shown
    assert "{train,eval,train-and-eval} train: train, without evaluations; eval: train " in shown
    for argv in ((), ("--seed", "1"), ("trian",), ("train", "eval")):
        with pytest.raises(SystemExit) as caught:
            read(*argv)
        assert caught.value.code == 2
    assert "subcommand" in capsys.readouterr().err


def test_the_arguments() -> None:
    """Each takes all flags, before and behind it, from files and variables too."""
    for name, evaluate, eval_only in (
        ("train", False, False),
        ("eval", True, True),
        ("train-and-eval", True, False),
    ):
        for argv in (
            (name, "--seed", "3"),
            ("--seed", "3", name),
            ("--config", "preemptible", name),
        ):
            args = read(*argv, environ={"IGNITER_SEED": "3"})
            kwargs = train_kwargs(args)
            assert (args.subcommand, args.seed, args.eval_only) == (name, 3, eval_only)
            assert (kwargs["evaluate"], kwargs["eval_only"]) == (evaluate, eval_only)
            assert kwargs["identity"] == train_kwargs(read("train", "--seed", "3"))["identity"]
    assert read("eval", "--checkpoint", "latest").checkpoint == "latest"


def test_beside_positional_arguments_of_the_script() -> None:
    """The subcommand is the first word, the script's own come after it."""

    def arguments(parser: Parser) -> None:
        parser.add_argument("data", nargs="+")

    parser = build_parser(with_subcommands=True, arguments=arguments)
    args = parse(parser, ["train", "--seed", "3", "a", "b"], {"IGNITER_WORKERS": "2"})
    assert (args.subcommand, args.data, args.workers) == ("train", ["a", "b"], 2)


@pytest.mark.parametrize("name", ["train", "train-and-eval"])
@pytest.mark.parametrize("variable", [False, True])
def test_contradictions(name: str, variable: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """What trains does not go with --eval-only, wherever that is said."""
    argv = (name,) if variable else (name, "--eval-only")
    with pytest.raises(SystemExit) as caught:
        read(*argv, environ={"IGNITER_EVAL_ONLY": "1"} if variable else None)
    assert caught.value.code == 2
    assert f"the subcommand {name} trains" in capsys.readouterr().err
    assert read("eval", "--eval-only").eval_only


def test_without_them_nothing_changes() -> None:
    """A script that does not ask for subcommands has none, nor an argument of the name."""
    args = parse(build_parser(), [], {})
    assert "subcommand" not in vars(args)
    assert train_kwargs(args)["evaluate"]
    with pytest.raises(SystemExit):
        parse(build_parser(), ["train"], {})
