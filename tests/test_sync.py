"""``igniter sync``: a run sent whole, any number of times, with a real sqlite store."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pexpect
import pytest
from server import free_port
from support import Small
from tracked import Run, Stored, begun_run

from igniter import cli
from igniter.identity import shaping
from igniter.tracking.failures import Unavailable
from igniter.tracking.journal import Journal
from igniter.tracking.place import Place, written
from igniter.tracking.records import line, read
from igniter.tracking.sender import Listener, Sender
from igniter.tracking.state import Destination, State, count_unsent
from igniter.tracking.sync import SendingLock, sync_run
from igniter.tracking.uri import sqlite_path

# sqlalchemy warns of what mlflow does with it.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

ENVIRON = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


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
    assert artifacts >= {"config.yaml", "run-record.yaml"}


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
    run.log(1, 3)
    sender = Sender(run.paths, Place(run.uri, run.uri), Listener(print))
    sender.send(run.record, live=True)
    stored = run.mlflow()
    stored.client.delete_run(stored.run.info.run_id)
    run.log(4, 6)
    assert sender.send(run.record, live=True)
    assert sender.sent == 3 + 6
    assert run.mlflow().points() == run.expected()


def test_a_run_that_is_deleted_whenever_it_is_made_is_a_problem(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Someone who deletes it twice does not end the process that sends."""
    from igniter.tracking.mlflow_run import MlflowRun

    log_points = MlflowRun.log_points

    def deleted_first(self: Any, points: Any) -> None:
        self._client.delete_run(self.run_id)
        log_points(self, points)

    run.log(1, 3)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowRun, "log_points", deleted_first)
        outcome = sync_run(run.paths.root)
        assert outcome.problem is not None
        assert "was deleted" in outcome.problem
        assert outcome.left == 3
    assert sync_run(run.paths.root).problem is None
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


def test_dying_between_sending_and_remembering(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch sent but not noted is sent again, and MLflow holds it once."""
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
    assert run.record.tracking is not None
    run.record.tracking["uri"] = f"http://me:hunter2@127.0.0.1:{free_port()}"
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
    assert outcome.problem == "another process is sending this run; try again later"
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
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = []
    for number in range(2):
        root = tmp_path / str(number)
        each = begun_run(root, uri, "both")
        each.record.identity = str(number)
        each.save()
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


def test_a_record_without_attempts_is_no_error(run: Run) -> None:
    """A run.yaml that was written by hand, or cut, is a problem in words."""
    run.record.attempts = []
    run.save()
    assert "no attempt" in str(sync_run(run.paths.root).problem)


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


def test_an_offline_run_is_sent_later(tmp_path: Path, store: str, run: Run) -> None:
    """With mlflow_offline no process sends; sync then sends it to where the run was told to."""
    small = Small(tmp_path / "trained")
    result = small.train(
        mlflow=True, mlflow_offline=True, mlflow_tracking_uri=store, mlflow_experiment_name="away"
    )
    assert result.mlflow_run_id is None
    assert not (result.run_dir / "tracking.log").exists()
    outcome = sync_run(result.run_dir)
    assert (outcome.left, outcome.problem) == (0, None)
    stored = Stored(store, "away")
    assert stored.run.info.status == "FINISHED"
    assert sorted(name for name, _, _, _ in stored.points()) == sorted(
        name for r in read(result.run_dir / "journal.jsonl") for name in r.metrics
    )
    assert result.status == "completed"


def test_offline_is_no_part_of_a_runs_identity() -> None:
    """The same command with and without the flag is the same run."""
    assert shaping({"lr": 1, "mlflow_offline": True}) == shaping({"lr": 1})


def test_a_database_beside_the_run_is_found_under_another_path(run: Run, tmp_path: Path) -> None:
    """Where the tree is seen elsewhere, a relative database is the one there; none is made new."""
    tree = tmp_path / "here"
    (tree / "output").mkdir(parents=True)
    uri = f"sqlite:///{tree}/mlflow.db"
    assert run.record.tracking is not None
    run.record.tracking |= written(uri, tree / "output" / "run")
    run.log(1, 3)
    run.save()
    run.paths.root.rename(tree / "output" / "run")
    moved = tmp_path / "there"
    first = sync_run(tree / "output" / "run")
    assert first.problem is None
    tree.rename(moved)
    again = sync_run(moved / "output" / "run")
    assert (again.problem, again.run_id, again.sent) == (None, first.run_id, 0)
    (moved / "mlflow.db").unlink()
    lost = sync_run(moved / "output" / "run")
    assert lost.problem is not None
    assert f"there is no directory {tree}" in lost.problem
    assert not tree.exists()


def test_a_directory_that_cannot_be_written_has_its_own_words(run: Run) -> None:
    """The advice is to sync a copy, and a copy is the same MLflow run."""
    run.log(1, 3)
    assert sync_run(run.paths.root).sent == 3
    copy = run.paths.root.with_name("copy")
    shutil.copytree(run.paths.root, copy)
    (run.paths.root / "tracking.lock").unlink()
    (run.paths.root / "tracking.lock").mkdir()  # so that not even root can open it
    outcome = sync_run(run.paths.root)
    assert outcome.problem is not None
    assert "sync the copy" in outcome.problem
    (copy / "tracking.json").unlink()
    assert sync_run(copy).problem is None
    assert run.mlflow().points() == run.expected()


def _holding(path: Path, kind: str) -> subprocess.Popen[bytes]:
    """Another process that holds a run's lock, or its sending lock."""
    code = {
        "training": "from igniter.lock import RunLock; held = RunLock.acquire(root / 'run.lock')",
        "sending": "from igniter.tracking import sync; from igniter.rundir import Paths; "
        "held = sync.SendingLock(Paths(root)); assert held.acquire(0)",
    }[kind]
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import sys; from pathlib import Path; root = Path(sys.argv[1]); {code}; "
            "print(flush=True); input()",
            str(path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRON,
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_a_run_that_trains_meanwhile(run: Run) -> None:
    """It is sent as running, or left at once to the process that trains it and sends it itself."""
    run.log(1, 3)
    with _holding(run.paths.root, "training") as training:
        offline = sync_run(run.paths.root)
        assert (offline.sent, offline.problem) == (3, None)
        assert run.mlflow().run.info.status == "RUNNING"
        run.log(4, 5)
        with _holding(run.paths.root, "sending") as sending:
            begun = time.monotonic()
            outcome = sync_run(run.paths.root)
            assert time.monotonic() - begun < 10
            assert (outcome.by_another, outcome.left, outcome.problem) == (True, 2, None)
            elsewhere = sync_run(run.paths.root, tracking_uri="sqlite:////elsewhere/x.db")
            assert elsewhere.problem == "another process is sending this run; try again later"
            sending.kill()
        training.kill()
    assert sync_run(run.paths.root).problem is None
    assert run.mlflow().points() == run.expected()
    assert run.mlflow().run.info.status == "KILLED"


def test_a_tree_of_runs(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs at any sensible depth are sent; one that cannot be read stops none, and is told of."""
    monkeypatch.chdir(tmp_path)
    run.log(1, 3)
    deep = tmp_path / "a" / "b" / "c" / "d" / "deep"
    other = begun_run(deep, run.uri, "deep")
    other.record.identity = "other"
    other.save()
    other.log(1, 2)
    assert cli.main(["sync", "."]) == 0
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == [
        "a/b/c/d/deep: 2 values sent",
        "run: 3 values sent",
    ]
    assert err == ""
    (deep / "run.yaml").write_text("status: [")
    run.log(4, 4)
    assert cli.main(["sync", "."]) == 3
    out, err = capsys.readouterr()
    assert "run: 1 values sent, 0 left" in out
    assert str(deep.relative_to(tmp_path) / "run.yaml") in err
    assert cli.main(["sync", "run", "--tracking-uri", "localhost:5000"]) == 2
    assert cli.main(["sync", "run", "--tracking-uri", f"sqlite:///{tmp_path}/no/x.db"]) == 1
    out, err = capsys.readouterr()
    assert err.count("there is no directory") == 1


def test_a_bar_on_a_terminal(run: Run) -> None:
    """On a terminal the values sent are shown while they are."""
    run.log(1, 2500)
    code = "import sys, igniter.cli; sys.exit(igniter.cli.main(sys.argv[1:]))"
    shown = pexpect.spawn(
        sys.executable, ["-c", code, "sync", str(run.paths.root)], env=ENVIRON, timeout=60
    )
    shown.expect(r"sent \d+/2500 values")
    shown.expect("2500 values sent, 0 left")
    shown.expect(pexpect.EOF)
    shown.close()
    assert shown.exitstatus == 0


def test_a_long_journal_is_counted_fast_and_in_little_memory(tmp_path: Path) -> None:
    """What is left is counted exactly, without keeping or even reading the records."""
    path = tmp_path / "journal.jsonl"
    block = b"".join(
        line(1, 1, n, 0, "result", {"a": 0.5, "b": math.nan}, repeat=False) for n in range(20_000)
    )
    odd = line(1, 1, 1, 0, "result", {'a":b': 0.5, "c": 1.0}, repeat=False)
    repeat = line(1, 1, 1, 0, "result", {"a": 0.5}, repeat=True)
    with path.open("wb") as file:
        for _ in range(10):
            file.write(block)
        file.write(odd + repeat + b"damaged\n" + repeat[:-9])
    tracemalloc.start()
    begun = time.process_time()
    assert count_unsent(path, 0) == 400_002
    assert time.process_time() - begun < 5
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    expected = sum(len(record.metrics) for record in read(path) if not record.repeat)
    assert count_unsent(path, 0) == expected


def test_a_long_journal_is_sent_in_little_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sender holds does not grow with what it has to send."""
    from igniter.tracking.mlflow_run import MlflowRun

    sync_run(run.paths.root)
    with run.paths.journal.open("wb") as file:
        for n in range(30_000):
            file.write(line(1, 1, n, 0, "result", {"a": 0.5}, repeat=False))
    sizes: list[int] = []
    monkeypatch.setattr(MlflowRun, "log_points", lambda self, points: sizes.append(len(points)))
    tracemalloc.start()
    outcome = sync_run(run.paths.root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.sent == 30_000
    assert max(sizes) == 1000
    assert peak < 4_000_000


def _files_in(directory: Path) -> dict[str, Path]:
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path.relative_to(directory).as_posix(): path for path in found}


def test_figures_are_shown_by_iteration_and_never_twice(run: Run) -> None:
    """A figure has the name that MLflow's pages read the key and the step from, from any copy."""
    for iteration in (100, 1200):
        figure = run.paths.figures / "samples" / "test" / f"iteration-{iteration:08d}.png"
        figure.parent.mkdir(parents=True, exist_ok=True)
        figure.write_bytes(b"png %d" % iteration)
    (run.paths.figures / "samples" / "pipe.png").touch()
    os.mkfifo(run.paths.figures / "iteration-00000001.png")  # whoever opens it waits for ever
    run.paths.pictures[0].write_bytes(b"curve")
    run.end("completed")
    assert sync_run(run.paths.root).problem is None
    stored = run.mlflow()
    run_id = stored.run.info.run_id
    where = Path(stored.run.info.artifact_uri)
    files = _files_in(where)
    images = sorted(name for name in files if name.startswith("images/"))
    assert len(images) == 4
    for name in images:
        key, step, number, stamp, time_, *rest = Path(name).stem.split("+")
        assert (key, step, stamp) == ("samples~test", "step", "timestamp")
        assert files[name].read_bytes() == b"png " + number.encode()
        assert rest[1:] in ([], ["compressed"])
        assert int(time_) >= 1795255200125
    assert stored.run.data.tags["mlflow.loggedImages"] == "True"
    assert files[run.paths.pictures[0].name].read_bytes() == b"curve"
    copy = run.paths.root.with_name("copy")
    (run.paths.figures / "iteration-00000001.png").unlink()
    shutil.copytree(run.paths.root, copy, copy_function=shutil.copyfile)
    (copy / "tracking.json").unlink()
    assert sync_run(copy).run_id == run_id
    assert _files_in(where) == files
    before = {name: path.stat().st_mtime_ns for name, path in files.items()}
    assert sync_run(copy).problem is None
    assert {name: path.stat().st_mtime_ns for name, path in files.items()} == before


def test_a_picture_that_changed_is_sent_again(run: Run) -> None:
    """An attempt that goes on draws a longer curve; MLflow has the last one."""
    where = None
    for content in (b"short", b"longer"):
        run.paths.pictures[1].write_bytes(content)
        run.end("interrupted")
        assert sync_run(run.paths.root).problem is None
        where = Path(run.mlflow().run.info.artifact_uri)
        assert (where / run.paths.pictures[1].name).read_bytes() == content
        run.begin()


def test_a_database_that_is_removed_in_mid_run_is_noticed(run: Run, tmp_path: Path) -> None:
    """What is sent does not go into a file that has no name any more."""
    database = tmp_path / "mlflow.db"
    shutil.copy(_database(run), database)
    uri = f"sqlite:///{database}"
    run.log(1, 3)
    sender = Sender(run.paths, Place(uri, uri), Listener(print))
    sender.send(run.record, live=True)
    database.unlink()
    run.log(4, 6)
    with pytest.raises(Unavailable):
        sender.send(run.record, live=True)


def _database(run: Run) -> Path:
    """The tests' database, which has been used."""
    assert sync_run(run.paths.root).problem is None
    database = sqlite_path(run.uri)
    assert database is not None
    return database
