"""The flags: names, defaults, spellings, help, and what train() is given."""

from __future__ import annotations

import argparse
import ast
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from igniter import config
from igniter.args import Parser, build_parser, parse, train_kwargs
from igniter.errors import UsageError
from igniter.identity import FREE
from igniter.intervals import parse_interval

DEFAULTS: dict[str, Any] = {
    "config": [],
    "print_config": False,
    "output_dir": None,
    "checkpoint_dir": None,
    "model_dir": None,
    "resume": "auto",
    "override": [],
    "strict": False,
    "break_lock": False,
    "seed": 0,
    "deterministic": False,
    "device": "auto",
    "workers": 0,
    "batch_size": 64,
    "eval_batch_size": 64,
    "learning_rate": 1e-3,
    "max_epochs": 10,
    "max_iterations": None,
    "epoch_length": None,
    "limit_batches": None,
    "stop_after": None,
    "precision": "fp32",
    "accumulate": 1,
    "clip_norm": None,
    "clip_value": None,
    "compile": False,
    "on_nan": "stop",
    "stop_signals": "SIGINT,SIGTERM,SIGHUP",
    "save_every": parse_interval("auto", allow_time=True, allow_auto=True),
    "keep_last": 3,
    "keep_every": None,
    "best_metric": None,
    "best_mode": "auto",
    "keep_best": 1,
    "eval_every": parse_interval("1 epoch", allow_time=False),
    "eval_only": False,
    "checkpoint": None,
    "export": "none",
    "log_every": parse_interval("100 iterations", allow_time=False),
    "print_every": parse_interval("1 epoch, 1 minute", allow_time=True),
    "progress": "auto",
    "picture": True,
    "tensorboard": False,
    "mlflow": True,
    "mlflow_offline": False,
    "mlflow_tracking_uri": None,
    "mlflow_experiment_name": None,
    "mlflow_run_name": None,
    "mlflow_tracking_username": None,
    "mlflow_system_metrics": False,
    "mlflow_log_model": True,
    "mlflow_register_model": None,
    "mlflow_log_checkpoints": "none",
    "mlflow_log_git_diff": False,
    "mlflow_tags": [],
    "mlflow_description": None,
    "mlflow_parent_run_id": None,
}


def read(*argv: str) -> argparse.Namespace:
    """Parse ``argv`` with igniter's own flags alone."""
    return parse(build_parser(), argv, {})


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Parse what is to be refused with exit code 2, and return the message."""
    with pytest.raises(SystemExit) as caught:
        read(*argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_defaults() -> None:
    """Every flag has its documented default, and there is no other flag."""
    assert vars(read()) == DEFAULTS


def test_every_flag_is_free_or_shapes_the_result() -> None:
    """A new flag must be placed: free to change between starts, or part of the identity."""
    shaping = {"seed", "batch_size", "epoch_length", "limit_batches", "learning_rate", "precision"}
    shaping |= {"accumulate", "clip_norm", "clip_value"}
    assert set(DEFAULTS) - shaping == FREE - {"subcommand"}


def test_help_shows_every_flag_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    """The help has a line with a default for every flag, under a title of its own."""
    with pytest.raises(SystemExit) as caught:
        parse(build_parser(inputs={"train_data": "data/x"}), ["--help"], {})
    assert caught.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name in DEFAULTS:
        assert f"--{name.replace('_', '-')}" in shown
    # One more for the input, one less for --print-config, which sets nothing.
    assert shown.count("(default: ") == len(DEFAULTS)
    assert "as YAML for --config, and exit --verify-resume" in shown
    assert "--train-data PATH path of train_data (default: data/x)" in shown
    titles = ["Inputs:", "Training:", "Run and files:", "Saving:", "Evaluation and output:"]
    for title in [*titles, "Tracking:", "Configuration:"]:
        assert title in shown


def help_text(arguments: Callable[[Parser], object] | None = None) -> str:
    """The help, on one line."""
    return " ".join(build_parser(arguments=arguments).format_help().split())


def test_help_shows_the_defaults_of_the_script() -> None:
    """A default that the script changes is the one that is shown."""

    def arguments(parser: Parser) -> None:
        parser.set_defaults(best_metric="eval/50%", mlflow=False, strict=True, max_iterations=7)

    shown, unchanged = help_text(arguments), help_text()
    for changed in (
        "such as eval/accuracy (default: eval/50%)",
        "track the run with MLflow (default: off)",
        "commit or versions (default: on)",
        "at the latest (default: 7)",
    ):
        assert changed in shown
        assert changed not in unchanged
    assert "such as eval/accuracy (default: none)" in unchanged
    assert "track the run with MLflow (default: on)" in unchanged
    assert "at the latest (default: no limit)" in unchanged


def test_help_of_own_arguments() -> None:
    """A script's own help keeps its words; a default in it is shown like igniter's."""

    def arguments(parser: Parser) -> None:
        parser.add_argument("--fast", action="store_true", help="be fast (%(default)s)")
        parser.add_argument("--rate", default=0.25, help="the\n    rate is %(default).3f")
        parser.add_argument("--plain", default=1)

    shown = help_text(arguments)
    assert "--fast be fast (off)" in shown
    assert "--rate RATE the rate is 0.250" in shown
    assert "--plain PLAIN Training:" in shown


@pytest.mark.parametrize("columns", ["80", "60"])
def test_help_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epilog says what an INTERVAL may be, in paragraphs; no line ends inside a name."""
    monkeypatch.setenv("COLUMNS", columns)
    text = build_parser(description="Own.\n\nTwo.").format_help()
    assert "Own.\n\nTwo.\n" in text
    assert '\n\nINTERVAL is "500 iterations", ' in text
    assert "\n\nEvery flag can also" in text
    assert max(map(len, text.splitlines())) < int(columns)
    assert not [line for line in text.splitlines() if line.endswith("-")]


@pytest.mark.parametrize(
    ("alias", "argv"),
    [
        (["--save-event", "5 iterations"], ["--save-every", "5 iterations"]),
        (["--eval-event", "EPOCH_COMPLETED(every=2)"], ["--eval-every", "2 epochs"]),
        (["--train-log-event", "5"], ["--log-every", "5"]),
        (["--eval-log-event", "5"], ["--log-every", "5"]),
        (["--train-print-event", "5"], ["--print-every", "5"]),
        (["--eval-print-event", "5"], ["--print-every", "5"]),
        (["--n-saved", "7"], ["--keep-last", "7"]),
        (["--train-pbar"], ["--progress", "bar"]),
        (["--no-train-pbar"], ["--progress", "none"]),
        (["--eval-pbar", "false"], ["--progress", "none"]),
    ],
)
def test_aliases(alias: list[str], argv: list[str], tmp_path: Path) -> None:
    """pytorch-igniter's names set what igniter's do, on the command line and in a file."""
    assert read(*alias) == read(*argv)
    assert read(*alias) != read()
    name, value = alias[0].removeprefix("--"), (alias[1:] or ["true"])[0]
    path = tmp_path / "settings.yaml"
    path.write_text(f"{name.replace('-', '_')}: {value}\n", encoding="utf-8")
    from_file = vars(read("--config", str(path)))
    assert {**from_file, "config": []} == vars(read(*argv))


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["--mlflow"], True),
        (["--no-mlflow"], False),
        (["--mlflow", "true"], True),
        (["--mlflow", "False"], False),
        (["--mlflow=no"], False),
        (["--no-mlflow", "true"], False),
        (["--no-mlflow", "false"], True),
        (["--mlflow", "false", "--mlflow", "true"], True),
        (["--no-mlflow", "--mlflow", "1"], True),
        (["--mlflow", "--seed", "1"], True),
    ],
)
def test_switches(argv: list[str], expected: bool) -> None:
    """A switch is read as --flag, --no-flag and --flag true, the last one winning."""
    assert read(*argv).mlflow is expected


def test_own_switches() -> None:
    """A script's own store_true is read as --flag true and --flag false too."""
    parser = build_parser(arguments=lambda p: p.add_argument("--fast", action="store_true"))
    assert parse(parser, ["--fast", "true"], {}).fast is True
    assert parse(parser, ["--fast", "--fast", "false"], {}).fast is False
    assert parse(parser, ["--fast=false", "--fast"], {}).fast is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--batch-size", "0"], "argument --batch-size: '0' is not a whole number of at least 1"),
        (["--max-epochs", "1.5"], "'1.5' is not a whole number of at least 1"),
        (["--workers", "-1"], "'-1' is not a whole number of at least 0"),
        (["--learning-rate", "fast"], "'fast' is not a number of at least 0"),
        (["--learning-rate", "nan"], "'nan' is not a number of at least 0"),
        (["--save-every", "5 lightyears"], "unknown unit 'lightyears'"),
        (["--eval-every", "5 minutes"], "'5 minutes' is a time"),
        (["--stop-signals", "SIGINT,SIGKILL"], "'SIGKILL' is not one of SIGINT, SIGTERM"),
        (["--stop-signals", "int, FOO"], "'FOO' is not one of SIGINT, SIGTERM"),
        (["--resume", "maybe"], "'maybe' is neither auto, always, never or must, nor a checkpoint"),
        (["--override", "momentum"], "invalid choice: 'momentum'"),
        (["--mlflow=maybe"], "maybe"),
        (["--batch", "5"], "unrecognized arguments: --batch\n"),
        (["--bacth-size=5"], "--bacth-size; the nearest known is '--batch-size'"),
        (["--lr", "0.1"], "unrecognized arguments: --lr; the nearest known is '--learning-r"),
        (["--epochs=5"], "the nearest known is '--max-epochs'"),
        (["--gpus", "2"], "the nearest known is '--device'"),
        (["--hlep"], "the nearest known is '--help'"),
        (["--momentum", "2"], "unrecognized arguments: --momentum\n"),
        (["stray"], "unrecognized arguments: stray\n"),
    ],
)
def test_refusals(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad value, an abbreviation or an unknown flag: usage and one message, exit code 2."""
    text = refused(capsys, *argv)
    assert message in text
    assert text.startswith("usage: ")
    assert len(text.splitlines()) == 2


def test_resume_from_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path is taken; one with a directory in it also when the checkpoint is gone by now."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for path in ("here", "other/run/checkpoints/iteration-5"):
        assert read("--resume", path).resume == path


def test_usual_names_lead_to_flags() -> None:
    """Each name that other programs use leads to a name that igniter has, and is none itself."""
    known = build_parser().options()
    for usual, name in config.USUAL_NAMES.items():
        assert name in known
        assert usual not in known


def test_train_kwargs_are_the_arguments_of_train() -> None:
    """train() is given exactly its own arguments, in the types it takes."""
    names = """max_epochs max_iterations epoch_length limit_batches stop_after output_dir
    checkpoint_dir model_dir resume
    override strict break_lock seed deterministic device on_nan stop_signals save_every keep_last
    keep_every keep_best best_metric best_mode eval_every log_every print_every progress mlflow
    mlflow_offline mlflow_tracking_uri mlflow_experiment_name mlflow_run_name
    mlflow_tracking_username
    mlflow_system_metrics mlflow_log_model mlflow_register_model mlflow_log_checkpoints
    mlflow_log_git_diff mlflow_tags mlflow_description mlflow_parent_run_id
    precision accumulate clip_norm clip_value compile tensorboard picture identity
    evaluate eval_only checkpoint export on_interrupt inputs"""
    kwargs = train_kwargs(read("--output-dir", "x", "--stop-signals", "int,usr1"))
    assert set(kwargs) == set(names.split())
    assert kwargs["output_dir"] == Path("x")
    assert kwargs["checkpoint_dir"] is None
    assert kwargs["stop_signals"] == ("SIGINT", "SIGUSR1")
    assert kwargs["override"] == ()
    assert kwargs["on_interrupt"] == "raise"
    assert kwargs["identity"] == {
        "batch_size": 64,
        "epoch_length": None,
        "learning_rate": 0.001,
        "seed": 0,
    }
    assert train_kwargs(read("--stop-signals", "none"))["stop_signals"] == ()


def test_identity_follows_the_arguments() -> None:
    """Another learning rate is another identity, more epochs and workers are not."""
    identity = train_kwargs(read())["identity"]
    assert train_kwargs(read("--max-epochs", "20", "--workers", "2"))["identity"] == identity
    assert train_kwargs(read("--learning-rate", "0.001"))["identity"] == identity
    assert train_kwargs(read("--learning-rate", "0.01"))["identity"] != identity


def test_inputs_and_own_defaults() -> None:
    """Inputs and dependencies become flags, and a script can change igniter's defaults."""
    parser = build_parser(
        inputs={"train_data": "a"},
        dependencies={"vocabulary": None},
        arguments=lambda p: p.set_defaults(batch_size=128),
    )
    args = parse(parser, ["--vocabulary", "v"], {})
    assert (args.train_data, args.vocabulary) == ("a", "v")
    assert (args.batch_size, args.eval_batch_size) == (128, 128)
    assert parse(parser, [], {"IGNITER_BATCH_SIZE": "32"}).batch_size == 32


def test_parsing_leaves_the_parser_as_it_was() -> None:
    """A parser can be used again: required arguments stay required."""
    parser = build_parser(arguments=lambda p: p.add_argument("--name", required=True))
    assert parse(parser, ["--name", "a"], {}).name == "a"
    with pytest.raises(SystemExit):
        parse(parser, [], {})


def test_an_argument_twice() -> None:
    """A script's argument that igniter has already is refused with its name."""

    def arguments(parser: Parser) -> None:
        parser.add_argument("--seed", type=int)

    with pytest.raises(UsageError, match="argument --seed: conflicting option string"):
        build_parser(arguments=arguments)
    with pytest.raises(UsageError, match="--device"):
        build_parser(inputs={"device": "x"})


def test_no_heavy_import() -> None:
    """The command line is read without torch, ignite, mlflow or numpy."""
    code = (
        "import sys; from igniter import main, args; args.parse(args.build_parser(), [], {});"
        "print(sorted({'torch', 'ignite', 'mlflow', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, check=True, capture_output=True, text=True
    )
    assert ast.literal_eval(done.stdout) == []
