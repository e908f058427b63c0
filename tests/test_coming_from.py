"""The examples of other systems, rewritten: they learn, they are exact under stops, and short."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT, Done, Zygote, assert_same_run, points

EXAMPLES = ROOT / "examples" / "coming-from"
Straight = Callable[[str], tuple[Path, Done]]
FLAGS = ("--no-mlflow", "--progress", "none", "--output-dir", "run", "--save-every", "20")


@dataclass(frozen=True)
class Example:
    """One of the examples.

    ``epochs`` are enough to get a share of ``accuracy`` right. ``lines`` of code has the original:
    of its file, by ``grep -cvE '^[[:space:]]*(#|$)'``. ``last`` is what the program prints last.
    """

    epochs: int
    accuracy: float
    lines: int
    last: str = ""


EXAMPLE = {
    "from_argus": Example(12, 0.90, 78, r"\{'module': \{'dropout': 0.1, 'n_classes': 10\}, .*\}"),
    "from_helios": Example(2, 0.80, 170),
    "from_pytorch_accelerated": Example(6, 0.90, 44, r"\{'test/loss': 0\.\d+, .*0\.9\d+\}"),
    "from_pytorch_igniter": Example(5, 0.93, 99),
}


@pytest.fixture(scope="module")
def prepared() -> Iterator[Zygote]:
    """As ``zygote``, with what the examples import."""
    pytest.importorskip("sklearn", reason="the examples need the extra 'examples'")
    pytest.importorskip("tensorboard", reason="one of them needs the extra 'tensorboard'")
    with Zygote("sklearn.datasets", "torch.utils.tensorboard") as started:
        yield started


def attempt(zygote: Zygote, cwd: Path, name: str, update: int = 0, how: str = "SIGKILL") -> Done:
    """One start of an example, perhaps struck at its so many-th update; see struck.py."""
    cwd.mkdir(exist_ok=True)
    script, epochs = EXAMPLES / f"{name}.py", EXAMPLE[name].epochs
    return zygote.run("struck.py", update, how, script, *FLAGS, "--max-epochs", epochs, cwd=cwd)


@pytest.fixture(scope="module")
def straight(prepared: Zygote, tmp_path_factory: pytest.TempPathFactory) -> Straight:
    """Where an example ran straight on to its end, and what it said; each runs once."""

    @functools.cache
    def run(name: str) -> tuple[Path, Done]:
        cwd = tmp_path_factory.mktemp(name)
        done = attempt(prepared, cwd, name)
        assert done.code == 0, done
        return cwd, done

    return run


def code_lines(path: Path) -> int:
    """As ``grep -cvE '^[[:space:]]*(#|$)'`` counts them: neither blank nor comments."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return sum(not re.match(r"\s*(#|$)", line) for line in lines)


@pytest.mark.parametrize("name", EXAMPLE)
def test_learns_and_is_exact_under_stops(
    prepared: Zygote, straight: Straight, name: str, tmp_path: Path
) -> None:
    """Stopped by SIGTERM, then by SIGKILL, it ends as straight on, with the accuracy stated."""
    for update, how, code in [(33, "SIGTERM", 143), (41, "SIGKILL", -9)]:
        struck = attempt(prepared, tmp_path, name, update, how)
        assert struck.code == code, struck
    again = attempt(prepared, tmp_path, name)
    assert again.code == 0, again
    cwd, done = straight(name)
    assert_same_run(cwd / "run", tmp_path / "run")
    assert again.out == done.out
    assert re.fullmatch(EXAMPLE[name].last, done.out.strip())
    accuracies = [float(v) for _, key, v in points(cwd / "run") if key == "eval/accuracy"]
    assert accuracies[-1] >= EXAMPLE[name].accuracy


def test_a_planted_fault_is_noticed(prepared: Zygote, straight: Straight, tmp_path: Path) -> None:
    """Negative control: an optimizer that forgets its momentum fails the comparison."""
    name = "from_pytorch_accelerated"
    attempt(prepared, tmp_path, name, 33, "SIGTERM")
    assert attempt(prepared, tmp_path, name, how="forgets").code == 0
    with pytest.raises(AssertionError):
        assert_same_run(straight(name)[0] / "run", tmp_path / "run")


def test_helios_writes_for_tensorboard(straight: Straight) -> None:
    """The graph, the hyper-parameters and the metrics are there, and a table of the metrics."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cwd, _ = straight("from_helios")
    board = EventAccumulator(str(cwd / "run" / "tensorboard"))
    board.Reload()
    assert board.Tags()["graph"]
    assert "eval/accuracy" in board.Tags()["scalars"]
    assert list(cwd.glob("run/tensorboard/*/events*"))  # of add_hparams
    header = (cwd / "run/metrics.csv").read_text(encoding="utf-8").partition("\n")[0]
    assert {"train/loss", "eval/accuracy"} <= set(header.split(","))


@pytest.mark.parametrize("name", EXAMPLE)
def test_wrong_arguments_and_help(prepared: Zygote, name: str, tmp_path: Path) -> None:
    """``--help`` lists the flags; a flag misspelt is refused with the nearest name."""
    script = EXAMPLES / f"{name}.py"
    assert "--learning-rate" in prepared.run(str(script), "--help", cwd=tmp_path).out
    done = prepared.run(str(script), "--max-epoch", "3", cwd=tmp_path)
    assert done.code == 2
    assert "the nearest known is '--max-epochs'" in done.err


@pytest.mark.parametrize("name", EXAMPLE)
def test_shorter_than_the_original(name: str) -> None:
    """Each has fewer lines of code than what it was written after, and the page says how many."""
    own = code_lines(EXAMPLES / f"{name}.py")
    assert own < EXAMPLE[name].lines
    page = (ROOT / "docs" / "coming-from.md").read_text(encoding="utf-8")
    row = next(line for line in page.splitlines() if f"{name}.py)" in line)
    assert [int(n) for n in re.findall(r"\| (\d+) ", row)] == [EXAMPLE[name].lines, own]
