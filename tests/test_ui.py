"""MLflow's pages on a run that was stopped twice, as a browser shows them.

``make ui-test`` runs these alone and leaves pictures of the pages in build/screenshots.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from server import Server
from support import Zygote
from tracked import Stored

from igniter.rundir import Paths
from igniter.tracking.records import read

CHROMIUM = shutil.which("chromium")


def why_not() -> str:
    """What these tests lack here; nothing where they can run."""
    if os.environ.get("CI"):
        return "a browser is not driven in CI (CI is set)"
    if find_spec("playwright") is None:
        return "playwright is not installed: pip install -e '.[ui]'"
    if CHROMIUM is None:
        return "there is no chromium on the path: apt-get install chromium"
    return ""


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

SCRIPT = Path(__file__).parent / "ui" / "digits.py"
EPOCH = 22  # iterations
PIXELS = 64  # the width that a picture gains with each epoch
PATIENCE = 60.0

# MLflow's pages begin with traces of language models and a chat; a person leaves these once.
TRAINING_PAGES = """
localStorage.setItem("mlflow.workflowType_v1", '"machine_learning"');
localStorage.setItem("mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true");
"""
LINES = """() => [...document.querySelectorAll(".js-plotly-plot")].flatMap(chart =>
    (chart.data ?? []).map(line => [line.metricKey, [...line.x], [...line.y]]))"""

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Trained:
    """A run that was stopped by SIGTERM and SIGKILL, and completed."""

    paths: Paths
    server: Server
    run: Any
    name: str
    status_when_stopped: str

    @property
    def page(self) -> str:
        """The address of its page."""
        return page_of(self.server, self.run)

    def logged(self) -> dict[str, set[Points]]:
        """The one line of each metric, as the journal has it."""
        lines: dict[str, list[tuple[int, float]]] = {}
        for record in read(self.paths.journal):
            assert not record.repeat
            for name, value in record.metrics.items():
                lines.setdefault(name, []).append((record.iteration, value))
        return {name: {tuple(points)} for name, points in lines.items()}


def page_of(server: Server, run: Any) -> str:
    """The address of a run's page."""
    return f"{server.uri}/#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with MLflow's pages."""
    with Server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture(scope="module")
def screen() -> Iterator[Any]:
    """A page of a browser, high enough for all charts at once: those out of sight are not drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 3000})
        page.set_default_timeout(PATIENCE * 1000)
        page.add_init_script(TRAINING_PAGES)
        yield page
        browser.close()


@pytest.fixture(scope="module")
def trained(
    zygote: Zygote, server: Server, screen: Any, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    """The digits example, stopped in mid-epoch by SIGTERM, and by SIGKILL after a checkpoint."""
    folder = tmp_path_factory.mktemp("training")
    paths = Paths(folder / "digits-stopped-twice")
    flags = ["--max-epochs", 4, "--log-every", 5, "--output-dir", paths.root]

    def attempt(stop: str) -> int:
        env = {"MLFLOW_TRACKING_URI": server.uri, "IGNITER_PICTURE": "true", "TEST_STOP": stop}
        return zygote.run(str(SCRIPT), *flags, cwd=folder, env=env).code

    assert attempt(f"{EPOCH + 8}:SIGTERM") == 128 + 15
    visit(screen, page_of(server, Stored(server.uri, "digits").run))
    when_stopped = status(screen)
    assert attempt(f"{2 * EPOCH + 9}:SIGKILL") == -9
    assert attempt("") == 0
    run = Stored(server.uri, "digits").run
    return Trained(paths, server, run, run.info.run_name, when_stopped)


@pytest.fixture
def keep(
    screen: Any, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[int], None]]:
    """Sets the height of the page, in pixels; what it shows in the end is kept as a picture."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)

    def height(pixels: int) -> None:
        screen.set_viewport_size({"width": 1400, "height": pixels})

    yield height
    screen.screenshot(path=folder / f"{request.node.name.removeprefix('test_')}.png")


def visit(screen: Any, address: str) -> None:
    """Load a page: to another part of the one that is shown, going there shows what it knew."""
    screen.goto("about:blank")
    screen.goto(address)


def status(screen: Any) -> str:
    """The status that a run's page shows."""
    words = screen.get_by_text("Status", exact=True).locator("xpath=..").inner_text()
    return str(words).removeprefix("Status").strip()


def lines_drawn(screen: Any, address: str, names: set[str]) -> dict[str, set[Points]]:
    """The different lines in the chart of each of the metrics ``names``, once all are drawn."""
    visit(screen, f"{address}/model-metrics")
    drawn = f"names => {{ const found = ({LINES})().map(line => line[0]);"
    screen.wait_for_function(
        f"{drawn} return names.every(name => found.includes(name)) }}", arg=sorted(names)
    )
    # A line is there twice, as it is and smoothed, which it is not unless asked for.
    lines: dict[str, set[Points]] = {}
    for name, x, y in screen.evaluate(LINES):
        lines.setdefault(name, set()).add(tuple(zip(x, y, strict=True)))
    return lines


def folds(lines: dict[str, set[Points]]) -> list[str]:
    """The metrics whose chart has several lines, or one that does not go on to the right."""
    return sorted(
        name
        for name, found in lines.items()
        for steps in [[step for step, _ in line] for line in found]
        if len(found) > 1 or steps != sorted(set(steps))
    )


def test_the_run_is_listed_once(trained: Trained, screen: Any, keep: Callable[[int], None]) -> None:
    """The experiment's table has one line for the run, however often it was stopped."""
    keep(500)
    visit(screen, f"{trained.server.uri}/#/experiments/{trained.run.info.experiment_id}/runs")
    screen.get_by_role("link", name=trained.name, exact=True).wait_for()
    assert screen.locator(".ag-center-cols-container [role=row]").count() == 1
    screen.get_by_text("1 matching run").wait_for()


def test_its_page_says_how_it_is(
    trained: Trained, screen: Any, keep: Callable[[int], None]
) -> None:
    """Status, parameters and tags are true: killed while it was stopped, finished in the end."""
    assert trained.status_when_stopped == "Killed"
    keep(1500)
    visit(screen, trained.page)
    screen.get_by_text("Parameters (").wait_for()
    assert status(screen) == "Finished"
    shown = screen.locator("body").inner_text()
    for parameter in ("learning_rate\n0.003", "dropout\n0.3", "batch_size\n64"):
        assert parameter in shown.replace("\t", "")
    assert "igniter.attempts\n: 3" in shown.replace("\t", "")


def test_each_metric_is_one_line_without_a_fold(
    trained: Trained, screen: Any, keep: Callable[[int], None]
) -> None:
    """Every chart has the points of the journal, once each and from left to right."""
    keep(3000)
    logged = trained.logged()
    drawn = lines_drawn(screen, trained.page, set(logged))
    assert folds(drawn) == []
    assert drawn == logged


def test_a_fold_is_seen(server: Server, screen: Any, keep: Callable[[int], None]) -> None:
    """What a restart sends again, with other values, is found in the chart."""
    from mlflow import MlflowClient

    keep(1000)
    client = MlflowClient(server.uri)
    run = client.create_run(client.create_experiment("folded"))
    for time, step in enumerate([1, 2, 3, 4, 2, 3, 4, 5]):
        client.log_metric(run.info.run_id, "train/loss", time / 7, timestamp=time, step=step)
        client.log_metric(run.info.run_id, "train/accuracy", time / 7, timestamp=time, step=time)
    names = {"train/loss", "train/accuracy"}
    assert folds(lines_drawn(screen, page_of(server, run), names)) == ["train/loss"]


def test_the_picture_shows(trained: Trained, screen: Any, keep: Callable[[int], None]) -> None:
    """The metrics drawn at the end are shown among the artifacts."""
    keep(900)
    visit(screen, f"{trained.page}/artifacts/metrics.png")
    shown = screen.locator("img[src^=blob]").first
    shown.wait_for()
    drawn = trained.paths.root / "metrics.png"
    with Image.open(drawn) as picture:
        assert size(shown) == picture.size


def test_the_steps_pictures_show_by_iteration(
    trained: Trained, screen: Any, keep: Callable[[int], None]
) -> None:
    """Each iteration that logged a picture has its own, before and after the stops."""
    keep(900)
    visit(screen, f"{trained.page}/model-metrics")
    slider = screen.get_by_role("slider")
    slider.wait_for()
    slider.focus()
    seen = {}
    for _ in range(4):
        slider.press("ArrowRight")
        iteration = int(slider.get_attribute("aria-valuenow"))
        picture = screen.locator(f"img[src*='step%2B{iteration}%2B']")
        picture.wait_for()
        screen.wait_for_function("img => img.complete", arg=picture.element_handle())
        seen[iteration] = size(picture)
    assert seen == {epoch * EPOCH: (epoch * PIXELS, PIXELS) for epoch in range(1, 5)}
    picture.scroll_into_view_if_needed()


def size(image: Any) -> tuple[int, int]:
    """Width and height of an image in a page, in its own pixels."""
    width, height = image.evaluate("img => [img.naturalWidth, img.naturalHeight]")
    return width, height
