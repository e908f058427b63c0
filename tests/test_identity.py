"""Identity: what shapes the result, its hash, and differences."""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from igniter import yamlfile
from igniter.args import build_parser, parse
from igniter.identity import ABSENT, Difference, differences, digest, plain, shaping
from igniter.intervals import parse_interval


class Colour(enum.Enum):
    """An enum whose member is turned into its value."""

    RED = "red"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (Path("a/b"), "a/b"),
        (parse_interval("1 epoch", allow_time=False), "1 epoch"),
        ((1, (2.5, "x")), [1, [2.5, "x"]]),
        ({3, 1, 2}, [1, 2, 3]),
        (Colour.RED, "red"),
        ({1: Path("x")}, {"1": "x"}),
        (np.float64(0.5), 0.5),
        (np.int64(3), 3),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.array(3), 3),
        (1j, "1j"),
    ],
)
def test_plain(value: Any, expected: Any) -> None:
    """Every value becomes one that YAML and JSON can write, of exactly Python's own types."""
    result = plain(value)
    assert result == expected
    assert type(result) is type(expected)
    yamlfile.dump(result)


def test_object_text_has_no_address() -> None:
    """The text of an object that has no text of its own is the same in every process."""
    assert "0x" in str(object())
    assert plain(object()) == "<object object>"


def test_shaping_leaves_out_what_is_free() -> None:
    """Of igniter's own flags, these shape the result; all inputs and own arguments do."""
    args = parse(
        build_parser(
            inputs={"data": "d"}, arguments=lambda parser: parser.add_argument("--b-token")
        ),
        [
            *("--b-token", "hunter2", "--accumulate", "2", "--clip-norm", "1"),
            *("--clip-value", "1", "--limit-batches", "3", "--precision", "bf16"),
        ],
        {},
    )
    shaped = shaping(vars(args))
    own = {"accumulate", "batch_size", "clip_norm", "clip_value", "epoch_length", "learning_rate"}
    own |= {"limit_batches", "precision", "seed"}
    assert set(shaped) == own | {"data", "b_token"}
    assert list(shaped) == sorted(shaped)
    assert shaped["b_token"] == "***"
    assert set(shaping(vars(args), free=["data", "b_token"])) == own


def test_digest_is_of_values() -> None:
    """Numbers count by value, order does not count, and other values have another digest."""
    assert digest({"lr": 1e-3, "n": 1}) == digest({"n": 1.0, "lr": 0.001})
    assert digest({"n": {"a": 2.0}}) == digest({"n": {"a": 2}})
    assert len(digest({})) == 8
    others: list[dict[str, Any]] = [
        {"n": 1},
        {"n": 2},
        {"n": "1"},
        {"n": True},
        {"n": None},
        {"m": 1},
        {"n": [1]},
    ]
    assert len({digest(other) for other in others}) == len(others)


def test_digest_is_the_same_in_every_process() -> None:
    """The digest does not depend on the process's hash seed."""
    code = (
        "from igniter.identity import *;"
        "print(digest(shaping({'b': {'x', 'y', 'z'}, 'a': object(), 'c': 1e-3})))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "2")
    }
    assert len(digests) == 1


def test_differences() -> None:
    """Changed, new and missing arguments are named with both values."""
    old = {"lr": 0.1, "n": 1, "gone": 3, "nan": float("nan")}
    new = {"lr": 0.2, "n": 1.0, "added": None, "nan": float("nan")}
    assert differences(old, new) == [
        Difference("added", ABSENT, None),
        Difference("gone", 3, ABSENT),
        Difference("lr", 0.1, 0.2),
    ]
    assert str(Difference("lr", 0.1, 0.2)) == "lr: 0.1 → 0.2"
    assert differences(old, old) == []


def test_digest_survives_yaml(tmp_path: Path) -> None:
    """Arguments written to run.yaml and read back are the same arguments."""
    arguments = shaping({"lr": 1e-05, "w": float("inf"), "names": ("a", "no"), "path": Path("x")})
    (tmp_path / "run.yaml").write_text(yamlfile.dump(arguments), encoding="utf-8")
    loaded = yamlfile.load(tmp_path / "run.yaml")
    assert differences(arguments, loaded) == []
    assert digest(arguments) == digest(loaded)


def test_flags_of_later_versions_change_no_run() -> None:
    """At its default an argument that came later is as absent; at another value it shapes."""
    before = {"batch_size": 3}
    assert shaping({**before, "accumulate": 1, "clip_norm": None}) == before
    assert digest(shaping({**before, "accumulate": 2})) != digest(before)
