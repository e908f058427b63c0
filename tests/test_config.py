"""Settings files, presets and variables under the flags."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from igniter import config
from igniter.args import Parser, build_parser, parse
from igniter.errors import UsageError
from igniter.identity import shaping


def own_arguments(parser: Parser) -> None:
    """Add one argument of each kind argparse knows."""
    parser.add_argument("--name", required=True)
    parser.add_argument("--size", type=int, choices=(1, 2, 3), default=1)
    parser.add_argument("--tag", action="append")
    parser.add_argument("--files", nargs="+", default=["f"])
    parser.add_argument("--pair", nargs=2, type=float)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--no-cache", dest="cache", action="store_false")
    parser.add_argument("--shuffle", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("-v", "--verbose", action="count", default=0)
    parser.add_argument("--level", nargs="?", const="high", default="low")
    parser.add_argument("--api-token")
    parser.add_argument("rest", nargs="*")


def settings(tmp_path: Path, text: str, name: str = "settings.yaml") -> str:
    """Write a settings file and return its path."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def read(*argv: str, environ: Mapping[str, str] | None = None) -> argparse.Namespace:
    """Parse with the arguments of ``own_arguments``."""
    return parse(build_parser(arguments=own_arguments), argv, environ or {})


def test_every_kind_of_argument(tmp_path: Path) -> None:
    """Each value goes through its own argument's type, choices and number of values."""
    path = settings(
        tmp_path,
        "name: -dash\nsize: 2\ntag: [a b, -c]\nfiles: [x, y]\npair: [1e-3, 2]\nfast: yes\n"
        "no-cache: true\nshuffle: off\nverbose: 3\nlevel: mid\nlearning_rate: 1e-2\n"
        "max-epochs: 012\neval-every: 50\n",
    )
    args = read("--config", path)
    assert (args.name, args.size, args.tag) == ("-dash", 2, ["a b", "-c"])
    assert (args.files, args.pair) == (["x", "y"], [1e-3, 2.0])
    assert (args.fast, args.cache, args.shuffle, args.verbose) == (True, False, False, 3)
    assert (args.level, args.learning_rate, args.max_epochs) == ("mid", 0.01, 12)
    assert str(args.eval_every) == "50 iterations"


def test_precedence(tmp_path: Path) -> None:
    """Defaults < earlier file < later file < variable < flag, wherever --config stands."""
    first = settings(tmp_path, "name: 1\nseed: 1\nbatch_size: 1\nworkers: 1\n", "1.yaml")
    second = settings(tmp_path, "seed: 2\nbatch-size: 2\nworkers: 2\n", "2.yaml")
    environ = {"IGNITER_BATCH_SIZE": "3", "IGNITER_WORKERS": "3"}
    flags = ["--workers", "4"]
    files = ["--config", first, "--config", second]
    for argv in ([*flags, *files], [*files, *flags]):
        args = read(*argv, environ=environ)
        assert (args.name, args.seed, args.batch_size, args.workers) == ("1", 2, 3, 4)
        assert args.max_epochs == 10


def test_a_flag_equal_to_the_default_still_wins(tmp_path: Path) -> None:
    """What is given counts as given, also when it is the default's value."""
    path = settings(tmp_path, "name: x\nseed: 5\nfast: true\nmlflow: false\n")
    args = read("--config", path, "--seed", "0", "--fast", "false", "--mlflow")
    assert (args.seed, args.fast, args.mlflow) == (0, False, True)


def test_lists_are_replaced(tmp_path: Path) -> None:
    """A list from a stronger source replaces the weaker one's; it does not grow it."""
    path = settings(tmp_path, "name: x\ntag: [a, b]\nfiles: [a, b]\noverride: [learning_rate]\n")
    args = read("--config", path, "--tag", "c", environ={"IGNITER_FILES": "d 'e f'"})
    assert (args.tag, args.files, args.override) == (["c"], ["d", "e f"], ["learning_rate"])
    assert read("--name", "x").override == []


def test_positionals_are_not_taken_for_a_files_list(tmp_path: Path) -> None:
    """A list from a file swallows no positional of the command line."""
    path = settings(tmp_path, "name: x\nfiles: [a, b]\n")
    assert read("p", "q", "--config", path).rest == ["p", "q"]
    args = read("--config", path, "--", "p", "--seed")
    assert (args.rest, args.files) == (["p", "--seed"], ["a", "b"])


def test_null_is_a_default_of_none(tmp_path: Path) -> None:
    """Null takes back an earlier file's value where the default is None, else it is refused."""
    first = settings(tmp_path, "name: x\nmax_iterations: 5\n", "1.yaml")
    second = settings(tmp_path, "max_iterations: null\n", "2.yaml")
    assert read("--config", first).max_iterations == 5
    assert read("--config", first, "--config", second).max_iterations is None
    third = settings(tmp_path, "seed: null\n", "3.yaml")
    with pytest.raises(UsageError, match=r"3\.yaml:1: 'seed' has no null"):
        read("--config", third)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\nlerning-rate: 1\n", ":2: unknown key 'lerning-rate'; the nearest known is 'learning_"),
        ("rest: x\n", ":1: unknown key 'rest'; --help lists"),
        ("lr: 1\n", ":1: unknown key 'lr'; the nearest known is 'learning_rate'; --help lists"),
        ("seed: 1\nsave-every: 1\nsave_event: 2\n", ":3: 'save_every' is already set by "),
        ("seed: [1, 2]\n", ":1: 'seed' takes one value, not the list ['1', '2']"),
        ("fast: maybe\n", ":1: 'fast' is true or false, not 'maybe'"),
        ("verbose: high\n", ":1: 'verbose' is a count, not 'high'"),
        ("config: other.yaml\n", ":1: a settings file cannot name another"),
        ("print-config: true\n", ":1: 'print-config' belongs on the command line only"),
    ],
)
def test_refused_settings(tmp_path: Path, text: str, message: str) -> None:
    """What no argument can take is refused with file, line and the nearest known name."""
    path = settings(tmp_path, text)
    with pytest.raises(UsageError) as caught:
        read("--name", "x", "--config", path)
    assert f"{path}{message}" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: x\n", ":1: argument --size: invalid int value: 'x'"),
        ("name: a\nsize: 9\n", ":2: argument --size: invalid choice: 9"),
        ("pair: [1]\n", ":1: argument --pair: expected 2 arguments"),
        ("batch-size: 0\n", ":1: argument --batch-size: '0' is not a whole number of at least 1"),
        ("eval-every: 5 minutes\n", ":1: argument --eval-every: '5 minutes' is a time"),
    ],
)
def test_unfit_values_name_their_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    """A value that its argument refuses ends with 2, naming file and line; a flag repairs it."""
    path = settings(tmp_path, text)
    with pytest.raises(SystemExit) as caught:
        read("--name", "x", "--config", path)
    assert caught.value.code == 2
    assert f"{path}{message}" in capsys.readouterr().err


def test_a_bad_value_is_no_matter_under_a_flag(tmp_path: Path) -> None:
    """A flag stands for a bad value of a file, which is then never used."""
    path = settings(tmp_path, "name: x\nsize: 9\n")
    assert read("--config", path, "--size", "2").size == 2


def test_bad_variables_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    """A variable's bad value ends with 2 and the variable's name."""
    with pytest.raises(SystemExit) as caught:
        read("--name", "x", environ={"IGNITER_SEED": "x"})
    assert caught.value.code == 2
    assert "IGNITER_SEED: argument --seed: 'x' is not a whole number" in capsys.readouterr().err
    with pytest.raises(UsageError, match="IGNITER_FILES: cannot split"):
        read("--name", "x", environ={"IGNITER_FILES": "'a"})


def test_variables(capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown variable warns with the nearest name, an empty one sets nothing."""
    environ = {"IGNITER_BACTH_SIZE": "3", "IGNITER_SEED": "", "OTHER": "1", "IGNITER_NAME": "n"}
    args = read(environ=environ)
    assert (args.batch_size, args.seed, args.name) == (64, 0, "n")
    expected = "warning: the variable IGNITER_BACTH_SIZE sets nothing; "
    expected += "the nearest known is IGNITER_BATCH_SIZE\n"
    assert capsys.readouterr().err == expected


def test_config_variable(tmp_path: Path) -> None:
    """IGNITER_CONFIG names files too, and --config replaces it."""
    first = settings(tmp_path, "name: a\nseed: 1\n", "1.yaml")
    second = settings(tmp_path, "name: b\n", "2.yaml")
    environ = {"IGNITER_CONFIG": first}
    assert read(environ=environ).seed == 1
    args = read("--config", second, environ=environ)
    assert (args.name, args.seed, args.config) == ("b", 0, [second])


def test_missing_required_argument(capsys: pytest.CaptureFixture[str]) -> None:
    """A required argument that no source gives ends with 2."""
    with pytest.raises(SystemExit) as caught:
        read()
    assert caught.value.code == 2
    assert "the following arguments are required: --name" in capsys.readouterr().err


def test_required_group_from_a_file(tmp_path: Path) -> None:
    """A file can give the one of several arguments that must be given."""

    def arguments(parser: Parser) -> None:
        group = parser.add_mutually_exclusive_group(required=True)
        group.add_argument("--a")
        group.add_argument("--b")

    path = settings(tmp_path, "a: 1\n")
    parser = build_parser(arguments=arguments)
    assert parse(parser, ["--config", path], {}).a == "1"
    with pytest.raises(SystemExit):
        parse(parser, [], {})


@pytest.mark.parametrize("preset", ["debug", "preemptible", "reproducible"])
def test_presets(preset: str) -> None:
    """Each preset that is shipped can be loaded by its name and changes something."""
    plain_run, preset_run = read("--name", "x"), read("--name", "x", "--config", preset)
    assert vars(plain_run) != {**vars(preset_run), "config": []}


def test_presets_do_not_shape_the_result_by_surprise() -> None:
    """The preemptible preset leaves the identity as it is: it can be added to a run begun."""
    plain_run = read("--name", "x")
    assert shaping(vars(read("--name", "x", "--config", "preemptible"))) == shaping(vars(plain_run))


def test_unknown_file() -> None:
    """A name that is neither file nor preset is refused with the presets and the nearest."""
    with pytest.raises(UsageError) as caught:
        config.find_file("premptible")
    assert "the nearest known is 'preemptible'; presets: debug, preemptible, reproducible" in str(
        caught.value
    )


def print_config(capsys: pytest.CaptureFixture[str], *argv: str, **environ: str) -> str:
    """What --print-config prints."""
    with pytest.raises(SystemExit) as caught:
        read("--print-config", *argv, environ=environ)
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_print_config_says_where_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each printed value has its origin beside it."""
    path = settings(tmp_path, "name: a b\nseed: 5\nbatch-size: 8\n")
    argv = ["--config", path, "--seed", "6", "--fast", "no"]
    lines = print_config(capsys, *argv, IGNITER_WORKERS="2").splitlines()
    assert f"name: a b  # from {path}:1" in lines
    assert "seed: 6  # from flag" in lines
    assert "fast: false  # from flag" in lines
    assert f"batch_size: 8  # from {path}:3" in lines
    assert "workers: 2  # from IGNITER_WORKERS" in lines
    assert "save_every: auto  # from default" in lines
    assert "eval_batch_size: null  # from default" in lines


def test_print_config_can_be_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed gives the same arguments when it is loaded."""
    argv = ["--name", "012", "--tag", "a, b", "--tag=#", "--files", "no", "~", "--fast", "-vv"]
    argv += ["--no-cache", "--save-every", "90s, COMPLETED", "--best-metric", "eval/accuracy"]
    argv += ["--output-dir", "a: b", "--pair", "1e-5", "2", "--level", "two\nlines"]
    path = settings(tmp_path, print_config(capsys, *argv))
    before: dict[str, Any] = vars(read(*argv))
    assert vars(read("--config", path)) == {**before, "config": [path]}


def test_print_config_shows_no_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A secret is neither printed nor replaced by its mask when the output is loaded."""
    argv = ["--name", "x", "--api-token", "hunter2"]
    argv += ["--mlflow-tracking-uri", "https://u:hunter2@h"]
    text = print_config(capsys, *argv)
    assert "hunter2" not in text
    assert "# api_token: '***'  # from flag" in text
    args = read("--config", settings(tmp_path, text))
    assert args.api_token is args.mlflow_tracking_uri is None


def test_the_process_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an environment handed in, the process's own is read."""
    monkeypatch.setenv("IGNITER_SEED", "77")
    assert parse(build_parser(), []).seed == 77
