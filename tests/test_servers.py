"""A run sent to a real MLflow server that is away, slow, wrong, or forgets what it was told."""

from __future__ import annotations

import base64
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server import HANGING, Fault, Proxy, Request, Server, free_port
from tracked import Run, Stored, begun_run

from igniter.lock import RunLock
from igniter.tracking import shipper, transport
from igniter.tracking.failures import Unavailable
from igniter.tracking.place import Place
from igniter.tracking.sender import Listener, Sender
from igniter.tracking.state import Destination, Outcome, State
from igniter.tracking.sync import sync_run

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

LOG = "runs/log-batch"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for the module: starting one takes seconds."""
    with Server(tmp_path_factory.mktemp("server")) as started:
        yield started


@pytest.fixture
def run(
    tmp_path: Path,
    server: Server,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:
    """A run that has begun, tracked by the server."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_HTTP_REQUEST_TIMEOUT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", 5)
    return begun_run(tmp_path / "run", server.uri, request.node.name)


def through(run: Run, proxy: Proxy) -> None:
    """Let the run be sent through ``proxy``."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = proxy.uri
    run.save()


def sent_in(run: Run, tries: int, **how: Any) -> list[Outcome]:
    """The outcomes of sending it until nothing is wrong, at most ``tries`` times."""
    outcomes = [sync_run(run.paths.root, **how)]
    while outcomes[-1].problem is not None:
        assert len(outcomes) < tries, outcomes[-1].problem
        outcomes.append(sync_run(run.paths.root, **how))
    return outcomes


def assert_whole(server: Server, run: Run, status: str = "FINISHED") -> Stored:
    """The server has one run, with every point of the journal once and that status."""
    stored = Stored(server.uri, run.record.name)
    assert stored.points() == run.expected()
    assert stored.run.info.status == status
    assert stored.run.data.params == {"learning_rate": "0.1", "seed": "0"}
    return stored


def every(count: int, fault: Fault, *names: str) -> Callable[[Request], Fault | None]:
    """``fault`` for each request but every ``count``-th; of those for ``names``, if given."""
    seen = 0

    def choose(request: Request) -> Fault | None:
        nonlocal seen
        if names and not request.is_for(*names):
            return None
        seen += 1
        return None if seen % count == 0 else fault

    return choose


FAULTS = {
    "refused": [
        Fault(500),
        Fault(429, headers={"Retry-After": "1"}),
        Fault(404),  # not MLflow's own words for a run that is not there
        Fault(400),  # nor for a value that it refuses
        Fault(200),
    ],
    "lost": [Fault(reset=True)],
    "done, but the answer lost": [Fault(500, after=True), Fault(reset=True, after=True)],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_faults_on_the_way(server: Server, run: Run, faults: list[Fault]) -> None:
    """Whatever happens to a third of the requests, in the end all points are there, each once.

    Nothing is left out as refused, and no second run is made.
    """
    draw = random.Random(7)

    def choose(_: Request) -> Fault | None:
        return draw.choice(faults) if draw.random() < 1 / 3 else None

    warned: list[str] = []
    run.log(1, 1001)
    with Proxy(server, choose) as proxy:
        through(run, proxy)
        outcomes = sent_in(run, tries=40, warn=warned.append)
        run.log(1002, 1010)
        run.end("completed")
        outcomes += sent_in(run, tries=40, warn=warned.append)
    assert_whole(server, run)
    assert len(outcomes) > 4
    assert sum(outcome.sent for outcome in outcomes) >= 1010
    assert outcomes[-1].left == 0
    assert not [text for text in warned if "left out" in text or "was deleted" in text]
    assert all("\n" not in text and len(text) < 300 for text in warned)


def test_a_run_whose_creation_was_not_answered(server: Server, run: Run) -> None:
    """The run and the experiment that were made before the answer was lost are found again."""
    run.end("completed")
    with Proxy(server, every(2, Fault(500, after=True), "runs/create", "experiments/create")) as p:
        through(run, p)
        sent_in(run, tries=4)
        created = [request for request in p.requests if request.is_for("runs/create")]
    assert_whole(server, run)
    assert len(created) == 1


def test_mlflows_own_retries_make_two_runs(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: a creation that is repeated blindly is done twice."""
    monkeypatch.setattr(transport, "NO_RETRIES", {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
    with Proxy(server, every(2, Fault(500, after=True), "runs/create")) as proxy:
        through(run, proxy)
        sent_in(run, tries=4)
    assert len(Stored(server.uri, run.record.name).runs) == 2


def test_a_hanging_server(server: Server, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is never answered is given up, and what it held is sent again."""
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", 1)
    run.log(1, 10)
    run.end("completed")
    with Proxy(server, every(2, HANGING, LOG)) as proxy:
        through(run, proxy)
        begun = time.monotonic()
        outcomes = sent_in(run, tries=8)
        assert time.monotonic() - begun < 30
    assert outcomes[0].problem is not None
    assert "does not answer in time" in outcomes[0].problem
    assert_whole(server, run)


def test_a_slow_server_is_waited_for_ever_longer(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that needs longer than the first patience is served all the same."""
    monkeypatch.setattr(transport, "TIMEOUT_SECONDS", 1)
    run.log(1, 5)
    run.end("completed")
    problems: list[str] = []
    with Proxy(server, lambda r: Fault(delay=1.3) if r.is_for(LOG) else None) as proxy:
        sending = Sender(run.paths, Place(proxy.uri, proxy.uri), Listener(problems.append))
        for _ in range(4):
            try:
                sending.send(run.record, live=False)
                sending.end(run.record)
                break
            except Unavailable as error:
                sending.note_problem(str(error))
    assert len(problems) == 1
    assert_whole(server, run)


@pytest.mark.parametrize("gone", ["deleted", "purged"])
def test_a_run_that_the_server_forgot(server: Server, run: Run, gone: str) -> None:
    """It is sent anew as a run that names the old one, whether that is in the bin or purged."""
    run.log(1, 10)
    first = sync_run(run.paths.root)
    stored = Stored(server.uri, run.record.name)
    stored.client.delete_run(first.run_id)
    if gone == "purged":
        _purge(server, first.run_id)
    run.log(11, 20)
    run.end("completed")
    warned: list[str] = []
    again = sync_run(run.paths.root, warn=warned.append)
    assert (again.sent, again.problem) == (20, None)
    assert warned == [
        f"the MLflow run {first.run_id} was deleted: the run is sent again as a new one"
    ]
    tags = assert_whole(server, run).run.data.tags
    assert tags["igniter.replaces"] == first.run_id


def _purge(server: Server, run_id: str | None) -> None:
    """What `mlflow gc` does, without its five seconds."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    SqlAlchemyStore(server.database, str(server.directory))._hard_delete_run(run_id)


def test_an_experiment_that_was_deleted(server: Server, run: Run) -> None:
    """The problem names the way back; after it the run goes on in what it was."""
    run.log(1, 5)
    first = sync_run(run.paths.root)
    stored = Stored(server.uri, run.record.name)
    experiment = stored.run.info.experiment_id
    stored.client.delete_experiment(experiment)
    run.log(6, 9)
    run.end("completed")
    outcome = sync_run(run.paths.root)
    assert outcome.problem is not None
    assert f"mlflow experiments restore --experiment-id {experiment}" in outcome.problem
    assert outcome.left == 4
    stored.client.restore_experiment(experiment)
    assert sync_run(run.paths.root).problem is None
    assert assert_whole(server, run).run.info.run_id == first.run_id


def test_a_server_that_asks_for_a_password(
    server: Server, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without one the problem names the variables; with them all is sent; none is written down."""
    token = base64.b64encode(b"me:hunter2").decode()

    def guard(request: Request) -> Fault | None:
        if request.headers.get("Authorization") == f"Basic {token}":
            return None
        return Fault(401, headers={"WWW-Authenticate": 'Basic realm="mlflow"'})

    run.log(1, 5)
    run.end("completed")
    with Proxy(server, guard) as proxy:
        through(run, proxy)
        outcome = sync_run(run.paths.root)
        assert outcome.problem is not None
        assert "MLFLOW_TRACKING_PASSWORD" in outcome.problem
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
        assert sync_run(run.paths.root).problem == outcome.problem
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
        assert sync_run(run.paths.root).problem is None
    assert_whole(server, run)
    assert not any(b"hunter2" in f.read_bytes() for f in run.paths.root.rglob("*") if f.is_file())


def test_odd_values_over_http(server: Server, run: Run) -> None:
    """NaN is kept, infinity becomes the largest float; sent again both are there once.

    So are an empty parameter, and more text than one request may hold.
    """
    many = {f"p{number}": "🎉" * 6000 for number in range(30)}
    run.record.parameters = {"empty": "", **many}
    run.save()
    for iteration, value in enumerate([float("nan"), float("inf"), -float("inf"), -0.0], start=1):
        run.log(iteration, iteration, odd=value)
    for _ in range(2):
        assert sync_run(run.paths.root).problem is None
        run.forget(offset=0)
    points = [p for p in Stored(server.uri, run.record.name).points() if p[0] == "odd"]
    values = {iteration: repr(value) for _, value, _, iteration in points}
    largest = "1.7976931348623157e+308"
    assert (values[1], values[2], values[3]) == ("nan", largest, f"-{largest}")
    assert len(points) == 4
    assert Stored(server.uri, run.record.name).run.data.params == {"empty": "", **many}


def _until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_server_that_comes_goes_and_comes_back_while_a_run_trains(
    run: Run, server: Server
) -> None:
    """Absent at the start, stopped and started in mid-run: the child sends all there is.

    MLflow says RUNNING while the run is, and FINISHED in the end; what goes wrong is said once.
    """
    port = free_port()
    assert run.record.tracking is not None
    run.record.tracking["uri"] = f"http://127.0.0.1:{port}"
    run.save()

    def stands() -> Destination:
        return State.load(run.paths.tracking).destination

    def all_sent() -> bool:
        return stands().offset == run.paths.journal.stat().st_size

    with RunLock.acquire(run.paths.lock):
        child = shipper.start(run.paths)
        run.log(1, 50)
        _until(lambda: stands().problem is not None)
        with Proxy(server, port=port):
            _until(all_sent)
            assert_whole(server, run, "RUNNING")
            server.stop()
            run.log(51, 100)
            _until(lambda: stands().problem is not None)
            server.start()
            run.log(101, 120)
            _until(all_sent)
            run.end("completed")
            outcome = child.finish(60)
    assert (outcome.sent, outcome.left, outcome.problem) == (120, 0, None)
    assert_whole(server, run)
    said = (run.paths.root / "tracking.log").read_text()
    assert said.count("\n") <= 4, said
