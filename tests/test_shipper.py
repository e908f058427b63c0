"""Sending a run to MLflow, with a real sqlite store and real processes."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from igniter.errors import UsageError
from igniter.rundir import Paths, RunRecord
from igniter.tracking import follow, shipper
from igniter.tracking.journal import Journal
from igniter.tracking.names import flat, legal, worth_keeping
from igniter.tracking.records import read
from igniter.tracking.state import Destination, State
from igniter.tracking.sync import SendingLock, destination_uri, sync_run
from igniter.tracking.uri import resolve, sqlite_path, with_credentials

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


@pytest.fixture(autouse=True)
def no_tracking_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the environment of whoever runs the tests out of them."""
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One database for the module: making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"


@dataclass
class Run:
    """A run directory with two attempts' worth of helpers."""

    paths: Paths
    record: RunRecord

    @property
    def uri(self) -> str:
        """The tracking URI in its record."""
        assert self.record.tracking is not None
        return str(self.record.tracking["uri"])

    def begin(self) -> None:
        """Begin an attempt."""
        self.record.begin_attempt(
            start="2026-11-21T10:00:00.125+00:00",
            host="node1",
            pid=len(self.record.attempts) + 1,
            from_iteration=0,
            command=["train.py"],
            resume_command=f"python train.py --attempt {len(self.record.attempts) + 1}",
            git_commit="abc123",
        )
        self.save()

    def end(self, status: Any, end: str = "2026-11-21T11:00:00.250+00:00") -> None:
        """End the attempt."""
        self.record.end_attempt(status, end=end)
        self.save()

    def save(self) -> None:
        """Write run.yaml."""
        self.record.save(self.paths.run_yaml)

    def log(self, first: int, last: int, **metrics: float) -> None:
        """Log iterations, as an attempt that settled all before them."""
        size = self.paths.journal.stat().st_size if self.paths.journal.exists() else 0
        attempt = len(self.record.attempts)
        journal = Journal.open(self.paths.journal, attempt=attempt, offset=size, warn=print)
        for iteration in range(first, last + 1):
            journal.log(iteration, 0, {"train/loss": iteration / 7, **metrics})
        journal.close()

    def expected(self) -> list[tuple[str, float, int, int]]:
        """What MLflow has to hold: name, value, time, iteration."""
        return sorted(
            (name, value, record.time, record.iteration)
            for record in read(self.paths.journal)
            if not record.repeat
            for name, value in record.metrics.items()
        )

    def forget(self, **changes: Any) -> None:
        """Set back what tracking.json knows."""
        State.load(self.paths.tracking).with_changes(**changes).save(self.paths.tracking)

    def mlflow(self) -> Stored:
        """What MLflow holds of it now."""
        return Stored(self.uri, self.record.name)


class Stored:
    """What MLflow holds of a test's one experiment."""

    def __init__(self, uri: str, experiment: str) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(uri)
        found = self.client.get_experiment_by_name(experiment)
        assert found is not None
        self.runs = self.client.search_runs([found.experiment_id])

    @property
    def run(self) -> Any:
        """The one run there is."""
        (run,) = self.runs
        return run

    def points(self) -> list[tuple[str, float, int, int]]:
        """All it holds of the one run: name, value, time, iteration."""
        run = self.run
        return sorted(
            (m.key, m.value, m.timestamp, m.step)
            for key in run.data.metrics
            for m in self.client.get_metric_history(run.info.run_id, key)
        )


@pytest.fixture
def run(tmp_path: Path, store: str, request: pytest.FixtureRequest) -> Run:
    """A run that has begun, its experiment named for the test."""
    root = tmp_path / "run"
    root.mkdir()
    name = request.node.name
    record = RunRecord(
        name=name,
        script="train.py",
        identity="1a2b3c4d",
        arguments={},
        parameters={"learning_rate": 0.1, "seed": 0},
        tracking={"uri": store, "experiment_name": name, "run_name": "first"},
    )
    run = Run(Paths(root), record)
    run.begin()
    return run


def test_the_history_is_the_journal(run: Run) -> None:
    """Every point is in MLflow once, with the journal's time and the iteration as its step."""
    run.log(1, 1500, lr=3e-6)
    run.end("completed")
    outcome = sync_run(run.paths.root)
    assert (outcome.sent, outcome.left, outcome.problem) == (3000, 0, None)
    stored = run.mlflow()
    assert stored.points() == run.expected()
    assert stored.run.info.run_id == outcome.run_id
    assert stored.run.info.status == "FINISHED"
    assert stored.run.info.start_time == 1795255200125
    assert stored.run.info.end_time == 1795258800250
    tags = stored.run.data.tags
    assert tags["mlflow.source.name"] == "train.py"
    assert tags["mlflow.source.git.commit"] == "abc123"
    assert tags["mlflow.runName"] == "first"
    assert tags["igniter.identity"] == "1a2b3c4d"
    assert tags["igniter.run_dir"] == str(run.paths.root)
    artifacts = {a.path for a in stored.client.list_artifacts(stored.run.info.run_id)}
    assert artifacts == {"config.yaml", "run-record.yaml"}


@pytest.mark.parametrize("known", ["offset", "run", "nothing"])
def test_sending_again_adds_nothing(run: Run, known: str) -> None:
    """A lost cursor, or a tracking.json lost whole, leaves one run with each point once."""
    run.log(1, 50, nan=math.nan)
    run.end("completed")
    first = sync_run(run.paths.root)
    before = [point for point in run.mlflow().points() if point[0] != "nan"]
    if known == "run":
        run.forget(offset=0)
    elif known == "nothing":
        run.paths.tracking.write_text("{")
    again = sync_run(run.paths.root)
    stored = run.mlflow()
    assert again.run_id == first.run_id
    assert again.sent == (0 if known == "offset" else 100)
    assert [point for point in stored.points() if point[0] != "nan"] == before
    assert len(stored.points()) == 100


def test_resent_with_another_time_a_point_is_doubled(run: Run) -> None:
    """The control of the test above: MLflow keeps anything but an exact repeat."""
    run.log(1, 1)
    sync_run(run.paths.root)
    (record,) = read(run.paths.journal)
    text = run.paths.journal.read_text().replace(str(record.time), str(record.time + 1))
    run.paths.journal.write_text(text)
    run.forget(offset=0)
    sync_run(run.paths.root)
    assert len(run.mlflow().points()) == 2


def test_one_run_over_all_attempts(run: Run) -> None:
    """A resumed run goes on in its MLflow run, its status and tags brought up to date."""
    run.log(1, 10)
    run.end("interrupted")
    sync_run(run.paths.root)
    assert run.mlflow().run.info.status == "KILLED"
    run.begin()
    run.log(11, 20)
    run.end("completed")
    sync_run(run.paths.root)
    stored = run.mlflow()
    assert stored.points() == run.expected()
    assert stored.run.info.status == "FINISHED"
    assert stored.run.data.tags["igniter.attempts"] == "2"
    assert stored.run.data.tags["igniter.resume_command"] == "python train.py --attempt 2"


def test_a_run_lasts_from_its_first_start_to_its_last_end(run: Run) -> None:
    """Sent late or again, MLflow has the times of the attempts, also of one that was killed."""
    run.log(1, 3)
    run.end("interrupted")
    sync_run(run.paths.root)
    run.begin()
    run.end("interrupted", end="2026-11-21T12:00:00.500+00:00")
    sync_run(run.paths.root)
    info = run.mlflow().run.info
    assert (info.start_time, info.end_time) == (1795255200125, 1795262400500)
    run.begin()
    os.utime(run.paths.journal, (1795266000, 1795266000))
    sync_run(run.paths.root)
    info = run.mlflow().run.info
    assert (info.start_time, info.end_time) == (1795255200125, 1795266000000)


def test_a_clock_set_back_makes_no_negative_duration(run: Run) -> None:
    """A run never ends before it began."""
    run.end("completed", end="2026-11-21T09:00:00.000+00:00")
    sync_run(run.paths.root)
    info = run.mlflow().run.info
    assert info.start_time == info.end_time == 1795255200125


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("completed", "FINISHED"),
        ("interrupted", "KILLED"),
        ("failed", "FAILED"),
        ("running", "KILLED"),
    ],
)
def test_the_final_status(run: Run, status: str, shown: str) -> None:
    """MLflow says how the run ended; one recorded as running, with no process in it, was killed."""
    if status != "running":
        run.end(status)
    sync_run(run.paths.root)
    assert run.mlflow().run.info.status == shown


def test_values_that_differed_when_run_again_are_not_sent(run: Run) -> None:
    """The first value stays in MLflow; the audit's repeat never gets there."""
    run.log(1, 5)
    journal = Journal.open(run.paths.journal, attempt=2, warn=lambda text: None)
    journal.log(3, 0, {"train/loss": 99.0})
    journal.log(6, 0, {"train/loss": 6.0})
    sync_run(run.paths.root)
    points = run.mlflow().points()
    assert points == run.expected()
    assert 99.0 not in [value for _, value, _, _ in points]
    assert len(points) == 6


def test_all_parameters_arrive_flattened_and_masked(run: Run) -> None:
    """More than 100 parameters, nested ones, long values and odd names are all there, no secret."""
    many = {f"p{number}": number for number in range(230)}
    run.record.parameters = {
        **many,
        "model": {"layers": [1, 2], "head": {"bias": True}},
        "long": "x" * 7000,
        "odd!name": None,
        "api_token": "hunter2",
        "url": "https://me:hunter2@example.org",
    }
    run.save()
    assert sync_run(run.paths.root).problem is None
    params = run.mlflow().run.data.params
    assert {name: params[name] for name in many} == {n: str(v) for n, v in many.items()}
    assert params["model.layers"] == "[1, 2]"
    assert params["model.head.bias"] == "True"
    assert params["long"] == "x" * 6000
    assert params["odd_name"] == "None"
    assert "hunter2" not in str(run.mlflow().run.to_dictionary())
    assert not any(b"hunter2" in f.read_bytes() for f in _files(run) if f != run.paths.run_yaml)


def _files(run: Run) -> Iterator[Path]:
    database = sqlite_path(run.uri)
    assert database is not None
    artifacts = run.mlflow().run.info.artifact_uri
    for top in (run.paths.root, Path(artifacts)):
        yield from (path for path in top.rglob("*") if path.is_file())


def test_bookkeeping_is_no_parameter(run: Run) -> None:
    """How igniter's command was started is not sent; a user's own parameter of that name is."""
    from igniter.args import build_parser

    every = vars(build_parser().parse_args([]))
    left_out = {"config", "print_config", "break_lock", "progress", "strict", "resume", "override"}
    assert worth_keeping(every).keys() == every.keys() - left_out
    own = {"config": "resnet50", "strict": True, "learning_rate": 0.1}
    assert worth_keeping(own) == own
    names = [*left_out, "learning_rate"]
    run.record.parameters = dict.fromkeys(names, "x")
    run.save()
    sync_run(run.paths.root)
    run.begin()
    run.record.parameters = dict.fromkeys(names, "y")
    run.save()
    sync_run(run.paths.root)
    data = run.mlflow().run.data
    assert data.params == {"learning_rate": "x"}
    changed = [tag for tag in data.tags if tag.startswith("igniter.attempt.")]
    assert changed == ["igniter.attempt.2.learning_rate"]


def test_a_changed_parameter_becomes_a_tag(run: Run) -> None:
    """MLflow keeps the first value; the later attempt's is a tag, and new parameters still come."""
    sync_run(run.paths.root)
    run.begin()
    run.record.parameters = {"learning_rate": 0.5, "seed": 0, "added": 1}
    run.save()
    assert sync_run(run.paths.root).problem is None
    data = run.mlflow().run.data
    assert data.params == {"learning_rate": "0.1", "seed": "0", "added": "1"}
    assert data.tags["igniter.attempt.2.learning_rate"] == "0.5"


def test_a_deleted_run_is_made_anew(run: Run) -> None:
    """A run deleted in MLflow is replaced by one that names it and holds the whole journal."""
    run.log(1, 10)
    first = sync_run(run.paths.root)
    stored = run.mlflow()
    stored.client.delete_run(first.run_id)
    run.log(11, 20)
    warned: list[str] = []
    again = sync_run(run.paths.root, warn=warned.append)
    assert again.run_id != first.run_id
    assert run.mlflow().run.data.tags["igniter.replaces"] == first.run_id
    assert run.mlflow().points() == run.expected()
    assert again.left == 0
    assert "was deleted" in warned[0]


def test_a_run_deleted_between_two_batches_is_made_anew(run: Run) -> None:
    """A deleted run refuses everything; that is no reason to leave out every point."""
    from igniter.tracking.sender import Sender

    run.log(1, 3)
    sender = Sender(run.paths, run.uri, print)
    sender.send(run.record, live=True)
    stored = run.mlflow()
    stored.client.delete_run(stored.run.info.run_id)
    run.log(4, 6)
    assert sender.send(run.record, live=True) == 6
    assert run.mlflow().points() == run.expected()


def test_a_deleted_experiment_is_named_with_the_way_back(run: Run) -> None:
    """Nothing can be made in a deleted experiment: the problem says how to restore it."""
    sync_run(run.paths.root)
    stored = run.mlflow()
    stored.client.delete_experiment(stored.run.info.experiment_id)
    run.paths.tracking.unlink()
    outcome = sync_run(run.paths.root)
    assert outcome.problem is not None
    assert "mlflow experiments restore" in outcome.problem


def test_another_uri_gets_the_whole_run_and_the_first_is_remembered(
    run: Run, tmp_path: Path, store: str
) -> None:
    """Each tracking URI has its own run and cursor; going back makes no second run there."""
    run.log(1, 5)
    first = sync_run(run.paths.root)
    other = f"sqlite:///{tmp_path}/other.db"
    elsewhere = sync_run(run.paths.root, tracking_uri=other)
    assert (elsewhere.sent, elsewhere.left) == (5, 0)
    assert elsewhere.run_id != first.run_id
    run.log(6, 7)
    back = sync_run(run.paths.root)
    assert (back.run_id, back.sent) == (first.run_id, 2)
    assert Stored(other, run.record.name).points() == run.expected()[:5]


def test_what_mlflow_refuses_is_left_out_alone(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bad point of a batch costs itself and a warning; the batch is not sent for ever."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    log_batch = MlflowClient.log_batch
    calls = []

    def picky(self: Any, run_id: str, metrics: Any = (), **rest: Any) -> None:
        calls.append(len(metrics))
        if any(metric.step == 77 for metric in metrics):
            raise MlflowException.invalid_parameter_value("step 77 is no step")
        log_batch(self, run_id, metrics=metrics, **rest)

    run.log(1, 100)
    monkeypatch.setattr(MlflowClient, "log_batch", picky)
    warned: list[str] = []
    outcome = sync_run(run.paths.root, warn=warned.append)
    assert (outcome.left, outcome.problem) == (0, None)
    assert run.mlflow().points() == [point for point in run.expected() if point[3] != 77]
    assert len([text for text in warned if "left out" in text]) == 1
    assert len(calls) < 25


def test_dying_between_sending_and_remembering(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch sent but not noted is sent again, and MLflow holds it once."""
    from igniter.tracking.sender import Sender

    run.log(1, 2500)
    remember = Sender._remember
    batches = []

    def dying(self: Sender, **changes: object) -> None:
        if "offset" in changes and "run_id" not in changes:
            batches.append(changes)
            if len(batches) == 2:
                raise KeyboardInterrupt
        remember(self, **changes)

    with monkeypatch.context() as patch:
        patch.setattr(Sender, "_remember", dying)
        with pytest.raises(KeyboardInterrupt):
            sync_run(run.paths.root)
    outcome = sync_run(run.paths.root)
    assert outcome.sent == 1500
    assert run.mlflow().points() == run.expected()


def test_a_server_that_is_down_is_a_problem_and_no_error(run: Run) -> None:
    """With nothing listening the outcome says so within seconds, and a later try sends it all."""
    store = run.uri
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert run.record.tracking is not None
    run.record.tracking["uri"] = f"http://me:hunter2@127.0.0.1:{port}"
    run.save()
    run.log(1, 5)
    begun = time.monotonic()
    outcome = sync_run(run.paths.root)
    assert time.monotonic() - begun < 20
    assert outcome.problem is not None
    assert (outcome.run_id, outcome.sent, outcome.left) == (None, 0, 5)
    assert State.load(run.paths.tracking).destination.problem == outcome.problem
    assert "hunter2" not in run.paths.tracking.read_text() + outcome.problem
    run.record.tracking["uri"] = store
    run.save()
    outcome = sync_run(run.paths.root)
    assert (outcome.sent, outcome.left, outcome.problem) == (5, 0, None)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "mlruns", "sqlite://", "nonsense://x"])
def test_an_unusable_uri_says_what_to_use(run: Run, uri: str) -> None:
    """A directory of files, memory or an unknown scheme is a problem with a way out."""
    run.log(1, 1)
    outcome = sync_run(run.paths.root, tracking_uri=uri)
    assert outcome.problem is not None
    assert outcome.left == 1
    if uri != "nonsense://x":
        assert "sqlite:///mlflow.db" in outcome.problem


def test_a_second_sender_waits_and_gives_up(run: Run) -> None:
    """While one process sends a run another does not; it says so after its patience."""
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from igniter.rundir import Paths; "
            "from igniter.tracking.sync import SendingLock; "
            "lock = SendingLock(Paths(Path(sys.argv[1]))); "
            "print(lock.acquire(0), flush=True); input()",
            str(run.paths.root),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRON,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        outcome = sync_run(run.paths.root, patience=0.0)
        holder.kill()
    assert outcome.problem == "another process is sending this run"
    assert sync_run(run.paths.root).problem is None


def test_the_lock_notices_that_the_run_was_set_aside(run: Run) -> None:
    """A directory renamed, and another in its place, is not the run that was being sent."""
    with SendingLock(run.paths) as lock:
        assert lock.in_place()
        run.paths.root.rename(run.paths.root.with_name("old"))
        assert not lock.in_place()
        run.paths.root.mkdir()
        (run.paths.root / "tracking.lock").touch()
        assert not lock.in_place()


def test_processes_starting_on_a_missing_database(tmp_path: Path) -> None:
    """Processes that all find no database make it once between them and all succeed."""
    code = (
        "import sys; from pathlib import Path; from igniter.tracking.sync import sync_run; "
        "print(sync_run(Path(sys.argv[1])).problem)"
    )
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    processes = []
    for number in range(2):
        root = tmp_path / str(number)
        root.mkdir()
        record = RunRecord("both", "t.py", str(number), {}, {}, tracking={"uri": uri})
        each = Run(Paths(root), record)
        each.begin()
        each.log(1, 3)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", code, str(root)],
                stdout=subprocess.PIPE,
                text=True,
                env=ENVIRON,
            )
        )
    assert [process.communicate()[0].strip() for process in processes] == ["None", "None"]
    assert len(Stored(uri, "both").runs) == 2


_TRAIN = """
import os, sys, time
from pathlib import Path
from igniter.rundir import Paths
from igniter.tracking import shipper
from igniter.tracking.journal import Journal
paths = Paths(Path(sys.argv[1]))
sending = shipper.start(paths)
journal = Journal.open(paths.journal, attempt=1, warn=print)
for iteration in range(1, 301):
    journal.log(iteration, 0, {"train/loss": iteration / 7})
if os.fork() == 0:  # a loader worker: holds the pipe open, outlives its parent
    time.sleep(60)
    os._exit(0)
assert not {"mlflow", "torch"} & set(sys.modules)
print(sending._process.pid, flush=True)
time.sleep(60)
"""


def _gone(pid: int) -> bool:
    try:
        with Path(f"/proc/{pid}/stat").open() as file:
            return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_sigkill_of_the_training_process(run: Run) -> None:
    """The child sends all that was logged and says KILLED, even as a worker holds its pipe."""
    training = subprocess.Popen(
        [sys.executable, "-c", _TRAIN, str(run.paths.root)],
        stdout=subprocess.PIPE,
        text=True,
        env=ENVIRON,
        start_new_session=True,
    )
    with training:
        assert training.stdout is not None
        child = int(training.stdout.readline())
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            deadline = time.monotonic() + 30
            while not (run.paths.root / "tracking.lock").exists():
                assert time.monotonic() < deadline
                time.sleep(0.02)
            os.kill(child, number)
        training.kill()
        deadline = time.monotonic() + 60
        while not _gone(child):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(training.pid, signal.SIGKILL)
    stored = run.mlflow()
    assert stored.run.info.status == "KILLED"
    assert stored.points() == run.expected()
    assert len(stored.points()) == 300


def test_finish_waits_for_the_child_and_says_what_it_did(run: Run) -> None:
    """The training process starts the child at once and ends it with all sent and FINISHED."""
    begun = time.perf_counter()
    child = shipper.start(run.paths)
    assert time.perf_counter() - begun < 0.25
    run.log(1, 20)
    run.end("completed")
    outcome = child.finish(60)
    assert (outcome.sent, outcome.left, outcome.problem) == (20, 0, None)
    assert outcome.run_id == child.run_id() == run.mlflow().run.info.run_id
    assert run.mlflow().run.info.status == "FINISHED"


def test_modules_beside_the_script_do_not_stand_in_for_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user's own http.py or queue.py is not what the child imports under that name."""
    for name in ("http.py", "queue.py", "mlflow.py"):
        (tmp_path / name).write_text("raise SystemExit('the wrong one')")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    child = shipper.start(run.paths)
    run.log(1, 2)
    run.end("completed")
    outcome = child.finish(60)
    assert (outcome.sent, outcome.left, outcome.problem) == (2, 0, None)


def test_finish_does_not_wait_for_a_server_that_is_down(run: Run) -> None:
    """The wait is bounded, what is left is counted, and the child's log is the only output."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = "http://127.0.0.1:9"
    run.save()
    child = shipper.start(run.paths)
    run.log(1, 20)
    run.end("completed")
    begun = time.monotonic()
    outcome = child.finish(0.2)
    assert time.monotonic() - begun < 2
    assert (outcome.sent, outcome.left) == (0, 20)
    os.kill(child._process.pid, signal.SIGKILL)


def test_a_file_store_is_reported_through_the_child(run: Run) -> None:
    """A tracking URI that cannot be used ends the child, and the handle says why."""
    assert run.record.tracking is not None
    run.record.tracking["uri"] = "file:///tmp/mlruns"
    run.save()
    child = shipper.start(run.paths)
    outcome = child.finish(30)
    assert outcome.problem is not None
    assert "sqlite:///mlflow.db" in outcome.problem
    assert "file:///tmp/mlruns" in (run.paths.root / "tracking.log").read_text()


def test_backoff_grows_with_jitter_to_half_a_minute() -> None:
    """Waits double from one second on, between half and all of it, and never exceed 30 s."""
    longest = [follow.backoff(failures, lambda low, high: high) for failures in range(1, 9)]
    shortest = [follow.backoff(failures, lambda low, high: low) for failures in range(1, 9)]
    assert longest == [1, 2, 4, 8, 16, 30, 30, 30]
    assert shortest == [wait / 2 for wait in longest]


def test_the_parent_is_gone_when_the_pipe_closes_or_its_id_changes() -> None:
    """Either sign ends the wait at once; without one the wait lasts its time."""
    reading, writing = os.pipe()
    here = follow.Parent(os.getppid(), reading)
    here.wait(0.01)
    assert not here.gone
    another = follow.Parent(os.getppid() + 1, reading)
    another.wait(1e-3)
    assert another.gone
    os.close(writing)
    here.wait(60)
    assert here.gone
    os.close(reading)


def test_names_are_made_legal() -> None:
    """Whatever a metric is called, what is sent satisfies MLflow's own check."""
    from mlflow.utils.validation import _validate_metric_name

    for name in ("train/loss", "a@b", "../up", "a//b", "/abs", "", ".", "ü:é", "x" * 400, "end/"):
        _validate_metric_name(legal(name))
    assert legal("train/loss") == "train/loss"
    assert len(legal("x" * 400)) == 250


def test_parameters_flatten() -> None:
    """Nested parameters get dotted names; an empty one is kept."""
    nested = {"a": {"b": {"c": 1}, "empty": {}}, "d": None}
    assert flat(nested) == {"a.b.c": "1", "a.empty": "{}", "d": "None"}


def test_relative_databases_become_absolute() -> None:
    """A sqlite path counts from the directory it was given in, wherever it is read later."""
    here = Path("/home/me")
    assert resolve("sqlite:///mlflow.db", here) == "sqlite:////home/me/mlflow.db"
    assert resolve("sqlite:////data/a.db?timeout=5", here) == "sqlite:////data/a.db?timeout=5"
    assert resolve("https://host/path", here) == "https://host/path"
    assert sqlite_path("sqlite:////data/a.db?timeout=5") == Path("/data/a.db")
    with pytest.raises(UsageError):
        resolve("/data/mlruns", here)


def test_masked_credentials_come_back_from_the_environment(run: Run) -> None:
    """What run.yaml holds masked is connected to with what the environment has of that place."""
    here = Path("/")
    environ = {"MLFLOW_TRACKING_URI": "https://me:secret@host/path"}
    masked = "https://***@host/path"
    assert with_credentials(masked, environ, here) == environ["MLFLOW_TRACKING_URI"]
    assert with_credentials("https://***@other", environ, here) == "https://***@other"
    assert with_credentials(masked, {}, here) == masked
    record = replace(run.record, tracking=None)
    assert destination_uri(record) is None


def test_a_damaged_state_is_an_empty_one(tmp_path: Path) -> None:
    """Whatever tracking.json holds, reading it gives a state that can be gone on from."""
    path = tmp_path / "tracking.json"
    state = State().at("a").with_changes(run_id="r", offset=5)
    state.save(path)
    assert State.load(path) == state
    assert state.destination == Destination("r", 5)
    sound = json.loads(path.read_text())
    bad: list[object] = [[], {}, 3, {**sound, "destinations": {"a": {"offset": "5"}}}]
    bad += [{**sound, "destinations": {"a": {"other": 5}}}, {**sound, "destinations": []}]
    for content in bad:
        path.write_text(json.dumps(content))
        assert State.load(path) == State()
    path.write_bytes(b"\xff\x00")
    assert State.load(path) == State()
