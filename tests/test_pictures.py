"""The picture of a run's metrics, and the figures and images that steps log."""

from __future__ import annotations

import io
import itertools
import math
import os
import subprocess
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from support import Crash, Small, environment, plain_eval_step, plain_step

from igniter import attempt, evaluate
from igniter.errors import UsageError
from igniter.figures import Figures, figure_png, image_png, safe_path
from igniter.rundir import Paths
from igniter.spec import RunSpec
from igniter.tracking import child, drawer
from igniter.tracking.curves import MAX_LINES, MAX_PANELS, MAX_POINTS, Curves, Line, curves
from igniter.tracking.picture import draw, rendered
from igniter.tracking.records import Record, line, read


def record(iteration: int, metrics: dict[str, float], **other: Any) -> Record:
    """A record of the journal."""
    given = {"time": 1, "attempt": 1, "iteration": iteration, "epoch": 1, "kind": "result"}
    return Record(**{**given, "metrics": metrics, "repeat": False, "start": 0, "end": 0, **other})


def write_journal(path: Path, records: Iterable[Record]) -> Path:
    """A journal of ``records``."""
    with path.open("wb") as file:
        for r in records:
            file.write(
                line(r.time, r.attempt, r.iteration, r.epoch, r.kind, r.metrics, repeat=r.repeat)
            )
    return path


def only_line(found: Curves) -> Line:
    """The one line of the one panel."""
    ((found_line,),) = [panel.lines for panel in found.panels]
    return found_line


def test_a_metric_is_one_panel_of_training_and_evaluations() -> None:
    """Losses come first and rates last; the epoch, times and repeats are no curves."""
    found = curves(
        [
            record(1, {"train/accuracy": 0.5, "train/loss": 2.0, "lr/adam/0": 0.1, "epoch": 0.1}),
            record(1, {"perf/samples_per_second": 1.0}, kind="measured"),
            record(2, {"train/loss_epoch": 1.5}, attempt=2),
            record(2, {"train/loss": 9.0}, attempt=2, repeat=True),
            record(3, {"test/loss": 1.0, "valid/top/5": 0.5}, attempt=3, epoch=4),
        ],
        resumed=[1, 2],
    )
    assert [(p.name, [(k.source, k.of_epochs) for k in p.lines]) for p in found.panels] == [
        ("loss", [("train", False), ("train", True), ("test", False)]),
        ("accuracy", [("train", False)]),
        ("top/5", [("valid", False)]),
        ("lr", [("adam/0", False)]),
    ]
    assert (found.resumed, found.iteration, found.epoch, found.left_out) == ([1, 2], 3, 4, 0)
    assert found.panels[0].lines[0].last == 2.0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(-1e6, 1e6)), min_size=1, max_size=3000))
@settings(max_examples=30, deadline=None)
def test_a_thinned_line_holds_the_extremes_of_every_stretch(values: list[Any]) -> None:
    """However many values there are, in whatever order, few points tell their range and mean."""
    points = only_line(curves(record(i, {"train/loss": v}) for i, v in values)).points
    assert len(points) <= MAX_POINTS
    assert sum(point.number for point in points) == len(values)
    for before, after in itertools.pairwise(points):
        assert before.last < after.first
    for point in points:
        own = [value for i, value in values if point.first <= i <= point.last]
        assert (point.number, point.least, point.greatest) == (len(own), min(own), max(own))
        assert point.total == pytest.approx(math.fsum(own), abs=1e-3)


def test_a_short_line_is_not_thinned() -> None:
    """Up to the limit each value is a point of its own; one more, and stretches are formed."""
    few = only_line(curves(record(i, {"loss": 1.0}) for i in range(MAX_POINTS))).points
    assert len(few) == MAX_POINTS
    more = only_line(curves(record(i, {"loss": 1.0}) for i in range(MAX_POINTS + 1))).points
    assert len(more) == MAX_POINTS // 2 + 1


def test_what_finds_no_room_is_counted() -> None:
    """Panels and lines beyond the limits are left out, and the picture says how many."""
    metrics = {f"train/m{i}": 1.0 for i in range(MAX_PANELS + 2)}
    rates = {f"lr/adam/{i}": 1.0 for i in range(MAX_LINES + 3)}
    found = curves([record(1, {**rates, **metrics}), record(2, metrics)])
    assert len(found.panels) == MAX_PANELS
    assert len(found.panels[-1].lines) == MAX_LINES
    assert found.left_out == 3 + 3


def odd_journals() -> dict[str, list[Record]]:
    """Journals that are hard to draw."""
    steps = range(1, 200)
    return {
        "one point": [record(1, {"train/loss": 0.5})],
        "iteration 0": [record(0, {"a": 0.0})],
        "nothing finite": [record(i, {"train/loss": math.nan, "b": -math.inf}) for i in steps],
        "then NaN": [record(i, {"train/loss": 1 / i if i < 50 else math.nan}) for i in steps],
        "huge": [record(i, {"a": 10.0 ** (i + 100), "b": -1.7e308, "c": 5e-324}) for i in steps],
        "constant": [record(i, {"train/loss": 0.1, "zero": 0.0, "b": -1e-30}) for i in steps],
        "decades": [record(i, {"train/loss": 10.0**-i}) for i in steps],
        "odd names": [
            record(i, {"$x^{$": i, "_a": i, "": i, "/": i, "ü" * 90: i, "\0\n--\ud800": i})
            for i in steps
        ],
        "many": [record(i, {f"eval{i % 9}/m{k}": 1.0 for k in range(10)}) for i in steps],
        "ninety resumes": [record(i, {"train/loss": 1.0}, attempt=i // 2) for i in steps],
    }


@pytest.mark.parametrize("name", odd_journals())
def test_anything_can_be_drawn(name: str) -> None:
    """No journal, however odd, gives an error or a warning, or a picture that cannot be read."""
    figure = draw(curves(odd_journals()[name]), f"{name} \udcff\n$")
    image = Image.open(io.BytesIO(rendered(figure, "png")))
    assert image.size == tuple((figure.get_size_inches() * 120).astype(int))
    assert ElementTree.fromstring(rendered(figure, "svg")).tag.endswith("svg")


def drawn_by_a_process(root: Path, **environ: str) -> list[bytes]:
    """What the child draws of a run, in an environment."""
    done = subprocess.run(
        child.command("igniter.tracking.picture", str(root)),
        env={**environment(), **environ},
        cwd=root,
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert done.stdout + done.stderr == b""
    return [picture.read_bytes() for picture in Paths(root).pictures]


def test_the_same_journal_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither the hour nor the user's settings of matplotlib are in the picture; a value is."""
    records = [record(i, {"train/loss": 1 / i, "eval/loss": 2 / i}) for i in range(1, 700)]
    journal = write_journal(tmp_path / "journal.jsonl", records)
    first = drawn_by_a_process(tmp_path, TZ="UTC")
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\nbackend: TkAgg\n")
    again = drawn_by_a_process(
        tmp_path, TZ="Asia/Tokyo", PYTHONHASHSEED="7", MATPLOTLIBRC=str(tmp_path)
    )
    assert again == first
    figure = draw(curves(read(journal)), tmp_path.name)
    assert rendered(figure, "png") == first[0]
    records[-1] = record(699, {"train/loss": 0.5})
    figure = draw(curves(read(write_journal(tmp_path / "b.jsonl", records))), tmp_path.name)
    assert rendered(figure, "png") != first[0]
    assert rendered(figure, "svg") != first[1]


def test_the_users_settings_of_matplotlib_stay_as_they_are() -> None:
    """Drawing in a process leaves nothing of its own settings behind."""
    import matplotlib

    before = dict(matplotlib.rcParams)
    rendered(draw(curves([record(1, {"a": 1.0})]), "run"), "svg")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def drawing_runs(drawing: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw their metrics, and have all the time for it."""
    monkeypatch.setattr(attempt, "_draw", drawing)
    monkeypatch.setattr(attempt, "_DRAWING_SECONDS", dict.fromkeys(attempt._DRAWING_SECONDS, 60.0))


@pytest.mark.usefixtures("drawing_runs")
def test_every_end_of_an_attempt_draws_the_run(tmp_path: Path) -> None:
    """Stopped, failed or completed, the picture shows what the journal holds by then."""
    small = Small(tmp_path / "run")
    png, svg = Paths(small.run_dir).pictures
    assert small.train(stop_at=5, log_every=1).status == "interrupted"
    stopped = png.read_bytes()
    assert Image.open(io.BytesIO(stopped)).format == "PNG"
    assert ElementTree.parse(svg).getroot().tag.endswith("svg")

    def fail(*_: Any) -> None:
        raise RuntimeError("the user's own")

    png.unlink()
    with pytest.raises(RuntimeError, match="own"):
        Small(tmp_path / "run", step=fail).train(log_every=1)
    failed = png.read_bytes()
    assert failed != stopped  # a mark where it went on
    assert small.train(log_every=1).status == "completed"
    assert png.read_bytes() not in (stopped, failed)
    assert [file for file in small.run_dir.iterdir() if file.name.endswith(".part")] == []


@pytest.mark.usefixtures("drawing_runs")
def test_a_picture_can_be_left_out(tmp_path: Path) -> None:
    """With picture=False nothing is drawn."""
    Small(tmp_path).train(picture=False)
    assert not any(picture.exists() for picture in Paths(tmp_path).pictures)


@pytest.mark.usefixtures("drawing_runs")
def test_a_picture_that_fails_is_one_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A place that cannot be written to costs the picture alone."""
    Paths(tmp_path).pictures[0].mkdir(parents=True)
    assert Small(tmp_path).train(progress="plain").status == "completed"
    said = capsys.readouterr().err
    assert said.count("was not drawn") == 1
    assert "IsADirectoryError" in said
    assert "--no-picture" in said


def test_a_stop_does_not_wait_for_a_slow_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the time is up the end goes on, without a word; the picture comes by itself."""
    paths = Paths(tmp_path)
    write_journal(paths.journal, [record(1, {"train/loss": 0.5})])
    warned: list[str] = []
    drawing = drawer.start(paths)
    pid = drawing._process.pid
    drawing.finish(0.0, warned.append)
    assert warned == []
    assert not paths.pictures[0].exists()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert all(picture.exists() for picture in paths.pictures)


def test_a_journal_without_values_has_no_picture(tmp_path: Path) -> None:
    """A run that failed before its first log point draws nothing and warns of nothing."""
    Paths(tmp_path).journal.touch()
    warned: list[str] = []
    drawer.start(Paths(tmp_path)).finish(60.0, warned.append)
    assert warned == []
    assert [file.name for file in tmp_path.iterdir()] == ["journal.jsonl"]


# What steps and handlers log.


def image_of(value: float) -> Any:
    """A small image that tells the value bit for bit."""
    return np.frombuffer(np.float64(value).tobytes(), np.uint8).reshape(2, 4)


def logging_step(engine: Any, batch: Any, model: Any, optimizer: Any) -> dict[str, Any]:
    """A step that logs an image of its loss."""
    output = plain_step(engine, batch, model, optimizer)
    engine.log_image("loss", image_of(float(output["loss"].detach())))
    return output


def attach_logging(trainer: Any, evaluator: Any, model: Any) -> None:
    """Log at the ends of epochs and of evaluations."""
    from igniter.engine import Events

    def log(engine: Any) -> None:
        figure = Figure(figsize=(1, 1), dpi=20)
        figure.add_axes((0, 0, 1, 1)).plot(model.weight.detach().numpy().ravel())
        engine.log_figure("weights", figure)

    trainer.add_event_handler(Events.EPOCH_COMPLETED, log)
    evaluator.add_event_handler(Events.COMPLETED, log)


def logging_run(folder: Path) -> Small:
    """A run whose step, handlers and evaluation log."""
    return Small(folder, step=logging_step, eval_step=plain_eval_step, attach=attach_logging)


def kept(run_dir: Path) -> dict[str, bytes]:
    """Every figure of a run."""
    root = Paths(run_dir).figures
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def test_figures_stand_at_the_iteration_of_training(tmp_path: Path) -> None:
    """A figure of an evaluation, too, bears the iteration that training is at."""
    logging_run(tmp_path).train()
    assert sorted(kept(tmp_path)) == [
        *(f"eval/weights/iteration-{i:08d}.png" for i in (4, 8, 12)),
        *(f"train/loss/iteration-{i:08d}.png" for i in range(1, 13)),
        *(f"train/weights/iteration-{i:08d}.png" for i in (4, 8, 12)),
    ]


def test_after_stops_and_kills_each_figure_is_there_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped, killed and resumed, a run has the same files with the same bytes, and no report."""
    logging_run(tmp_path / "straight").train(progress="plain")

    def die_at(iteration: int) -> Callable[..., dict[str, Any]]:
        def step(engine: Any, *rest: Any) -> dict[str, Any]:
            output = logging_step(engine, *rest)
            if engine.state.iteration == iteration:
                raise Crash
            return output

        return step

    stopped = logging_run(tmp_path / "stopped")
    stopped.train(stop_at=4, progress="plain")
    for iteration in (7, 10):
        stopped.step = die_at(iteration)
        with pytest.raises(Crash):
            stopped.train(progress="plain")
    stopped.step = logging_step
    assert stopped.train(progress="plain").status == "completed"
    assert kept(tmp_path / "stopped") == kept(tmp_path / "straight")
    assert "figure" not in capsys.readouterr().err


def test_a_figure_that_comes_out_different_is_reported_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The control of the test above: the first one stays, and one warning says where."""
    run = logging_run(tmp_path)

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> dict[str, Any]:
        output = plain_step(engine, batch, model, optimizer)
        engine.log_image("noise", image_of(int.from_bytes(os.urandom(2), "big") + 1))
        if engine.state.iteration == 7:
            raise Crash
        return output

    run.step = step
    with pytest.raises(Crash):
        run.train()
    first = kept(tmp_path)
    with pytest.raises(Crash):
        run.train(progress="plain")
    assert kept(tmp_path) == first
    said = capsys.readouterr().err
    assert said.count("is not what it was") == 1
    assert "the figure train/noise of iteration 5 is" in said


def test_logging_a_name_twice_keeps_the_first(tmp_path: Path) -> None:
    """Two figures of one name at one iteration are a slip that is named, unless they are equal."""
    warned: list[str] = []
    figures = Figures(tmp_path, warned.append)
    first, second = (image_png(image_of(value)) for value in (1.0, 2.0))
    figures.save("train", "a", 1, first)
    figures.save("train", "a", 1, first)
    figures.save("train", "a", 2, second)
    assert warned == []
    figures.save("train", "a", 2, first)
    figures.save("train", "a", 2, first)
    (text,) = warned
    assert "train/a was logged twice at iteration 2" in text
    assert (tmp_path / "train/a/iteration-00000002.png").read_bytes() == second


def test_another_packing_of_the_same_pixels_is_the_same_figure(tmp_path: Path) -> None:
    """A library of another version, which packs a PNG otherwise, is no divergence."""
    warned: list[str] = []
    image = Image.fromarray(image_of(1.0))
    packed = io.BytesIO()
    image.save(packed, "PNG", compress_level=0)
    assert packed.getvalue() != image_png(image)
    Figures(tmp_path, warned.append).save("train", "a", 1, image_png(image))
    Figures(tmp_path, warned.append).save("train", "a", 1, packed.getvalue())
    assert warned == []
    Figures(tmp_path, warned.append).save("train", "a", 1, image_png(image_of(2.0)))
    assert len(warned) == 1


def test_a_full_disk_costs_the_figure_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where figures cannot be written that is one warning, and training goes on."""
    tmp_path.joinpath("run").mkdir()
    Paths(tmp_path / "run").figures.write_text("in the way")
    assert logging_run(tmp_path / "run").train(progress="plain").status == "completed"
    assert capsys.readouterr().err.count("was not written") == 1


def test_a_damaged_file_is_told_from_the_figure(tmp_path: Path) -> None:
    """What stands under the name and is no image differs from every figure."""
    warned: list[str] = []
    path = tmp_path / "train/a/iteration-00000001.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no image")
    Figures(tmp_path, warned.append).save("train", "a", 1, image_png(image_of(1.0)))
    assert len(warned) == 1


names = st.one_of(
    st.text(min_size=1, max_size=100),
    st.sampled_from(["..", "../up", "/abs", "a//b", ".hidden", "a b", "a_b", "a:b", "con", "a/."]),
)


@given(names, names)
@settings(max_examples=200, deadline=None)
def test_any_name_is_safe_and_its_own(first: str, second: str) -> None:
    """Whatever a figure is called, its file lies below its directory, apart from all others."""
    path = Path("root") / safe_path(first)
    assert os.path.normpath(path) == str(path)
    assert len(path.parts) == 2 + first.count("/")
    assert all(part.isascii() and not part.startswith(".") for part in path.parts)
    assert (safe_path(first) == safe_path(second)) == (first == second)


def test_ordinary_names_stay_as_they_are() -> None:
    """A name that a file system takes is the directory's name."""
    assert safe_path("train/confusion matrix-2.0_a") == "train/confusion matrix-2.0_a"


GREY = np.array([[0, 255, 51]], np.uint8)
COLOUR = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (GREY, GREY),
        (GREY[:, :, None], GREY),
        (GREY / 255, GREY),
        (np.float16([[-1.0, 2.0, 0.2]]), GREY),
        (np.array([[np.nan, np.inf, 0.2]]), GREY),
        (np.array([[False, True]]), GREY[:, :2]),
        (COLOUR, COLOUR),
        (COLOUR[::-1, :, ::-1], COLOUR[::-1, :, ::-1]),
        (torch.tensor(COLOUR).permute(2, 0, 1), COLOUR),
        (torch.tensor(GREY)[None], GREY),
        (torch.tensor(GREY / 255, requires_grad=True), GREY),
        (torch.tensor([[0.0, 1.0]], dtype=torch.bfloat16), GREY[:, :2]),
        (torch.tensor([[False, True]]), GREY[:, :2]),
        (Image.fromarray(COLOUR), COLOUR),
        (Image.fromarray(GREY).convert("CMYK").convert("RGB"), None),
        (Image.fromarray(GREY / np.float32(1)), None),
    ],
)
def test_every_kind_of_image_is_kept(image: Any, expected: Any) -> None:
    """Arrays, tensors and PIL images, of bytes, floats and booleans, keep their pixels."""
    with Image.open(io.BytesIO(image_png(image))) as found:
        if expected is not None:
            assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (np.zeros((3, 4, 5)), r"H×W×C .*array has the shape \(3, 4, 5\)"),
        (torch.zeros(5, 4, 3), r"C×H×W .*tensor has the shape \(5, 4, 3\)"),
        (torch.zeros(2, 3, 4, 4), "C×H×W"),
        (np.zeros((0, 4)), "H×W×C"),
        (np.zeros((4, 4), np.int64), "not int64; convert"),
        (Figure(), "not Figure; a matplotlib figure goes to log_figure"),
        ([[1]], "not list"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, text: str) -> None:
    """The message says what was given and what is taken."""
    with pytest.raises(UsageError, match=text):
        image_png(image)


def test_what_is_no_figure_is_refused() -> None:
    """An array given as a figure is sent to log_image."""
    with pytest.raises(UsageError, match=r"ndarray.*log_image"):
        figure_png(GREY)


@pytest.mark.parametrize("name", ["", None, 3])
def test_what_is_no_name_is_refused(tmp_path: Path, name: Any) -> None:
    """A figure needs a name, and nothing is written without one."""
    with pytest.raises(UsageError, match="name of a figure"):
        Figures(tmp_path, print).save("train", name, 1, b"")
    assert not any(tmp_path.iterdir())


def test_logging_draws_from_no_generator(tmp_path: Path) -> None:
    """A run that logs figures has the weights of one that does not."""
    Small(tmp_path / "plain", eval_step=plain_eval_step).train()
    small = logging_run(tmp_path / "logging")
    small.train()
    logged = small.model.weight
    again = Small(tmp_path / "again", eval_step=plain_eval_step)
    again.train()
    assert torch.equal(logged, again.model.weight)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    figure_png(Figure())
    image_png(GREY)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_evaluate_takes_the_same_steps(tmp_path: Path) -> None:
    """Without a run there is nowhere to keep a figure, and that is no error."""

    def step(engine: Any, batch: Any) -> dict[str, Any]:
        engine.log_image("a", GREY)
        return {"loss": 1.0}

    spec = RunSpec(step=step, loader=[torch.zeros(2)], metrics={"loss": "loss"})
    assert evaluate(to_save={"model": torch.nn.Linear(1, 1)}, eval_spec=spec) == {"eval/loss": 1.0}
