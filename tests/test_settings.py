"""Settings: the values of a library call are checked as those of the command line are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from igniter.args import build_parser, parse, train_kwargs
from igniter.errors import UsageError
from igniter.settings import Settings


def from_flags(*argv: str) -> Settings:
    """The settings that the command line gives."""
    given = train_kwargs(parse(build_parser(), argv, environ={}))
    for name in ("identity", "on_interrupt"):  # of train itself
        del given[name]
    return Settings.of(given)


def test_defaults_are_those_of_the_flags() -> None:
    """A call without settings trains as a command without flags does."""
    assert from_flags() == Settings()
    assert from_flags("--keep-best", "2") != Settings()


OPTIONAL = ["max_epochs", "max_iterations", "epoch_length", "keep_every"]
WHOLE = [*OPTIONAL, "seed", "keep_last", "keep_best"]


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", ["3", 2.5, 3.0, True, np.float64(3), -1])
def test_whole_numbers(name: str, value: Any) -> None:
    """What is no whole number, or too small, is refused with the value and what is allowed."""
    with pytest.raises(UsageError) as refused:
        Settings.of({name: value})
    assert str(refused.value).startswith(f"{name} is {value!r}; it must be a whole number of at ")


@pytest.mark.parametrize("name", WHOLE)
def test_integers_of_numpy(name: str) -> None:
    """numpy's integers are taken, as Python's own."""
    value = getattr(Settings.of({name: np.int64(3)}), name)
    assert (value, type(value)) == (3, int)


@pytest.mark.parametrize("name", WHOLE)
def test_zero_and_none(name: str) -> None:
    """Only a seed can be 0, and only what has no limit or another source can be None."""
    taken = set()
    for value in (0, None):
        other_end = "max_iterations" if name == "max_epochs" else "max_epochs"
        try:
            Settings.of({other_end: 5, name: value})
        except UsageError:
            continue
        taken.add(value)
    assert taken == ({0} if name == "seed" else {None} if name in OPTIONAL else set())


def test_no_end() -> None:
    """Training without any end is refused."""
    with pytest.raises(UsageError, match="needs an end"):
        Settings(max_epochs=None)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("on_nan", "stopp", "on_nan is 'stopp'; it must be stop or warn"),
        ("on_nan", None, "on_nan is None; it must be stop or warn"),
        ("best_mode", "maxi", "best_mode is 'maxi'; it must be auto or max or min"),
        ("progress", "barr", "progress is 'barr'; it must be auto or bar or plain or json or none"),
        ("override", ["lr"], "override is 'lr'; it must be learning_rate"),
        ("override", "learning_rate", "it must be a list of names, such as ['learning_rate']"),
        ("override", None, "override is None; it must be a list of names"),
        ("stop_signals", "SIGTERM", "it must be a list of names, such as ['SIGINT', 'SIGTERM',"),
        ("stop_signals", [15], "stop_signals is [15]; it must be a list of names"),
        ("stop_signals", ["SIGTREM"], "unknown signal 'SIGTREM'"),
        ("resume", None, "resume is None; it must be auto, always, never, must, or the path of"),
        ("resume", "allways", "resume is 'allways'; it must be auto, always, never, must, or"),
        ("resume", "", "resume is ''; it must be auto, always, never, must, or"),
        ("resume", True, "resume is True; it must be auto, always, never, must, or"),
        ("save_every", "soon", "cannot read the interval 'soon'"),
        ("log_every", "5 minutes", "count iterations or epochs"),
        ("max_epoch", 3, "train() has no argument 'max_epoch'; did you mean max_epochs?"),
    ],
)
def test_refused(name: str, value: Any, words: str) -> None:
    """A value that is none of those allowed is refused with both."""
    with pytest.raises(UsageError) as refused:
        Settings.of({name: value})
    assert words in str(refused.value)


def test_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Modes and paths are taken; a path that is gone too, which a restarted run may have."""
    monkeypatch.chdir(tmp_path)
    for mode in ("auto", "always", "never", "must"):
        assert Settings(resume=mode).resume == mode
    for path in ("there/iteration-5", "./allways"):
        assert Settings(resume=path).resume == path
    (tmp_path / "allways").mkdir()
    assert Settings(resume="allways").resume == "allways"
    assert Settings(resume=Path("never")).resume == str(tmp_path / "never")


def test_one_type_each() -> None:
    """A torch device becomes its name, and lists become tuples."""
    settings = Settings.of(
        {"device": torch.device("cuda", 1), "override": ["learning_rate"], "stop_signals": ["TERM"]}
    )
    assert settings.device == "cuda:1"
    assert settings.override == ("learning_rate",)
    assert settings.stop_signals == ("TERM",)
