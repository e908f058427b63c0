"""The journal: what it holds, and what becomes of it when a run is stopped and goes on."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from igniter.errors import SaveFailed
from igniter.tracking.journal import Divergence, Journal
from igniter.tracking.records import Record, is_boundary, line, read


class Warnings(list[str]):
    """Collects what the journal warns of."""

    def __call__(self, text: str) -> None:
        """Take a warning."""
        self.append(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.jsonl"


@pytest.fixture
def warned() -> Warnings:
    """What was warned of."""
    return Warnings()


def points(path: Path) -> dict[tuple[int, str], list[float]]:
    """Every value that is for MLflow, by iteration and name."""
    found: dict[tuple[int, str], list[float]] = {}
    for record in read(path):
        if not record.repeat:
            for name, value in record.metrics.items():
                found.setdefault((record.iteration, name), []).append(value)
    return found


def test_a_record_holds_what_was_logged(path: Path, warned: Warnings) -> None:
    """A logged line reads back with its time in milliseconds, attempt, iteration and epoch."""
    journal = Journal.open(path, attempt=3, clock=lambda: 1764.25, warn=warned)
    journal.log(100, 2, {"train/loss": 0.25, "train/accuracy": 1}, kind="measured")
    journal.close()
    (record,) = read(path)
    assert record == Record(
        time=1764250,
        attempt=3,
        iteration=100,
        epoch=2,
        kind="measured",
        metrics={"train/loss": 0.25, "train/accuracy": 1.0},
        repeat=False,
        start=0,
        end=path.stat().st_size,
    )


@given(st.floats())
@settings(max_examples=200, deadline=None)
def test_floats_come_back_bit_for_bit(value: float) -> None:
    """Every float reads back the same, sign of zero included, from a line of strict JSON."""
    from igniter.tracking.records import _parse

    text = line(0, 1, 1, 0, "result", {"a": value}, repeat=False)
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    record = _parse(text, 0, len(text))
    assert record is not None
    assert repr(record.metrics["a"]) == repr(value)


def test_equal_values_of_repeated_iterations_are_not_written_again(
    path: Path, warned: Warnings
) -> None:
    """What runs again after a rude stop and comes out equal, NaN included, adds no line."""
    values = {"loss": 0.1, "nan": math.nan, "inf": -math.inf}
    journal = Journal.open(path, attempt=1, warn=warned)
    journal.log(1, 0, values)
    offset = journal.flush()
    journal.log(2, 0, values)
    before = path.read_bytes()

    again = Journal.open(path, attempt=2, offset=offset, warn=warned)
    again.log(2, 0, values)
    assert path.read_bytes() == before
    again.log(3, 0, values)
    assert [record.iteration for record in read(path)] == [1, 2, 3]
    assert again.divergence is None
    assert warned == []


def test_the_first_divergence_is_reported_once_and_kept_out_of_the_points(
    path: Path, warned: Warnings
) -> None:
    """Different values are written as repeats, all counted, the first named in one warning."""
    journal = Journal.open(path, attempt=1, warn=warned)
    journal.log(1, 0, {"loss": 0.5, "lr": 0.1})
    journal.log(2, 0, {"loss": 0.25, "lr": 0.1})

    again = Journal.open(path, attempt=2, warn=warned)
    again.log(1, 0, {"loss": 0.75, "lr": 0.1})
    again.log(2, 0, {"loss": 0.3, "lr": 0.1})
    assert again.divergence == Divergence(1, "loss", first=0.5, again=0.75)
    (text,) = warned
    assert "loss at iteration 1 is 0.75" in text
    assert "0.5" in text
    assert "--deterministic" in text
    assert [r.metrics for r in read(path) if r.repeat] == [{"loss": 0.75}, {"loss": 0.3}]
    assert points(path)[1, "loss"] == [0.5]


@pytest.mark.parametrize(("first", "second"), [(0.0, -0.0), (0.1, 0.1 + 2**-56), (1.0, math.nan)])
def test_the_comparison_is_of_bits(
    path: Path, warned: Warnings, first: float, second: float
) -> None:
    """The last bit, the sign of zero and NaN all count as different."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": first})
    again = Journal.open(path, attempt=2, warn=warned)
    again.log(1, 0, {"loss": second})
    assert again.divergence is not None


def test_measured_values_are_not_compared(path: Path, warned: Warnings) -> None:
    """Of a time or a throughput the first value stays and another is no divergence."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"it/s": 10.0}, kind="measured")
    again = Journal.open(path, attempt=2, warn=warned)
    again.log(1, 0, {"it/s": 12.0}, kind="measured")
    assert points(path) == {(1, "it/s"): [10.0]}
    assert again.divergence is None


def test_a_third_attempt_still_finds_what_the_first_logged(path: Path, warned: Warnings) -> None:
    """A checkpoint made while catching up with the journal leaves the rest of it to be met."""
    first = Journal.open(path, attempt=1, warn=warned)
    first.log(1, 0, {"loss": 1.0})
    offset = first.flush()
    for iteration in range(2, 11):
        first.log(iteration, 0, {"loss": float(iteration)})

    second = Journal.open(path, attempt=2, offset=offset, warn=warned)
    for iteration in range(2, 6):
        second.log(iteration, 0, {"loss": float(iteration)})
    offset = second.flush()
    assert offset < path.stat().st_size

    third = Journal.open(path, attempt=3, offset=offset, warn=warned)
    for iteration in range(6, 13):
        third.log(iteration, 0, {"loss": float(iteration)})
    assert points(path) == {(i, "loss"): [float(i)] for i in range(1, 13)}
    assert third.flush() == path.stat().st_size


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_stops_leave_each_point_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """However often a run is killed, wherever its checkpoints fall, each point is there once."""
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    warned = Warnings()
    last = 24
    position, offset, attempt = 0, 0, 0
    while position < last:
        attempt += 1
        assert attempt < 60
        journal = Journal.open(path, attempt=attempt, offset=offset, warn=warned)
        stop = data.draw(st.integers(position, last)) if attempt < 6 else last
        every = data.draw(st.integers(1, 3))
        for iteration in range(position + 1, stop + 1):
            if iteration % every == 0:
                journal.log(iteration, 0, {"loss": iteration / 7})
            if data.draw(st.booleans()) or iteration == last:
                position, offset = iteration, journal.flush()
            if iteration % 5 == 0:  # an evaluation follows the checkpoint of its iteration
                journal.log(iteration, 0, {"eval": iteration / 3})
        journal.close()
        if data.draw(st.booleans()):
            with path.open("ab") as file:
                file.write(b'{"time":1,"att')
    assert warned == []
    for (iteration, name), values in points(path).items():
        assert values == [iteration / (7 if name == "loss" else 3)]


def test_without_the_offset_points_are_doubled(path: Path, warned: Warnings) -> None:
    """The control of the test above: an offset past what runs again doubles points."""
    journal = Journal.open(path, attempt=1, warn=warned)
    journal.log(1, 0, {"loss": 1.0})
    again = Journal.open(path, attempt=2, offset=journal.flush(), warn=warned)
    again.log(1, 0, {"loss": 1.0})
    assert points(path) == {(1, "loss"): [1.0, 1.0]}


def test_a_torn_last_line_goes_in_silence(path: Path, warned: Warnings) -> None:
    """What a kill or a power cut leaves of the last line is removed without a word."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": 1.0})
    whole = path.read_bytes()
    for tail in (whole[:-1], b"{", b"\0" * 4096):
        path.write_bytes(whole + tail)
        Journal.open(path, attempt=2, warn=warned).close()
        assert path.read_bytes() == whole
    assert warned == []


def test_a_damaged_tail_is_removed_with_a_warning(path: Path, warned: Warnings) -> None:
    """Whole lines that are no records are cut off the end, and that is said."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + b'rubbish\n{"time":1}\n')
    Journal.open(path, attempt=2, warn=warned).close()
    assert path.read_bytes() == whole
    assert len(warned) == 1
    assert "damaged" in warned[0]


def test_a_damaged_line_in_the_middle_costs_only_itself(path: Path, warned: Warnings) -> None:
    """The records after a damaged line are still held and read, and a warning names the place."""
    journal = Journal.open(path, attempt=1, warn=warned)
    for iteration in (1, 2, 3):
        journal.log(iteration, 0, {"loss": 1.0})
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"#" * 10 + b"\n" + lines[2])
    again = Journal.open(path, attempt=2, warn=warned)
    again.log(3, 0, {"loss": 1.0})
    assert [record.iteration for record in read(path)] == [1, 3]
    assert len(warned) == 1


@pytest.mark.parametrize("offset", [10_000, 5])
def test_a_journal_that_lacks_what_the_checkpoint_counts_on(
    path: Path, warned: Warnings, offset: int
) -> None:
    """A journal shorter than the offset, or another one, is warned of and carried on."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": 1.0})
    journal = Journal.open(path, attempt=2, offset=offset, warn=warned)
    assert len(warned) == 1
    assert str(offset) in warned[0]
    journal.log(5, 0, {"loss": 0.5})
    assert [record.iteration for record in read(path)] == [1, 5]
    assert journal.flush() == path.stat().st_size


def test_times_never_decrease(path: Path, warned: Warnings) -> None:
    """A clock that is set back, within an attempt or between two, does not turn time round."""
    clock = itertools.chain([50.0, 20.0], itertools.repeat(10.0)).__next__
    journal = Journal.open(path, attempt=1, clock=clock, warn=warned)
    journal.log(1, 0, {"loss": 1.0})
    journal.log(2, 0, {"loss": 1.0})
    again = Journal.open(path, attempt=2, offset=journal.flush(), clock=clock, warn=warned)
    again.log(3, 0, {"loss": 1.0})
    assert [record.time for record in read(path)] == [50_000] * 3


def test_a_reader_stops_at_a_line_being_written(path: Path, warned: Warnings) -> None:
    """Half a last line is not read, and reading goes on from the end of the last record."""
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": 1.0})
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    (record,) = read(path)
    path.write_bytes(whole + whole)
    assert [(r.start, r.end) for r in read(path, record.end)] == [(len(whole), 2 * len(whole))]


def test_boundaries(path: Path, warned: Warnings) -> None:
    """Only an offset between two lines is a boundary."""
    assert is_boundary(path, 0)
    assert not is_boundary(path, 1)
    Journal.open(path, attempt=1, warn=warned).log(1, 0, {"loss": 1.0})
    size = path.stat().st_size
    found = [offset for offset in range(-1, size + 3) if is_boundary(path, offset)]
    assert found == [0, size]


def test_a_full_disk_leaves_whole_lines_and_loses_none(
    path: Path, warned: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line written only in part is taken back, warned of once, and written when there is room."""
    journal = Journal.open(path, attempt=1, warn=warned)
    journal.log(1, 0, {"loss": 1.0})
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: write(fd, data[:10]))
        journal.log(2, 0, {"loss": 1.0})
        journal.log(3, 0, {"loss": 1.0})
        assert [record.iteration for record in read(path)] == [1]
        with pytest.raises(SaveFailed, match="cannot be written"):
            journal.flush()
    assert len(warned) == 1
    journal.log(4, 0, {"loss": 1.0})
    assert [record.iteration for record in read(path)] == [1, 2, 3, 4]


def test_an_unwritable_place_is_named(tmp_path: Path, warned: Warnings) -> None:
    """A journal that cannot be made is an expected failure that names the file."""
    with pytest.raises(SaveFailed, match=r"journal\.jsonl cannot be opened"):
        Journal.open(tmp_path / "absent" / "journal.jsonl", attempt=1, warn=warned)


_KILLED = """
import sys
from pathlib import Path
from igniter.tracking.journal import Journal
journal = Journal.open(Path(sys.argv[1]), attempt=1, warn=print)
for iteration in range(1, 10**9):
    journal.log(iteration, 0, {"loss": 1 / iteration})
    print(iteration, flush=True)
"""


def _numbers(lines: Iterator[str], count: int) -> int:
    return int(list(itertools.islice(lines, count))[-1])


def test_sigkill_loses_nothing_that_was_logged(path: Path) -> None:
    """After SIGKILL every iteration that the process had logged is in the file, whole."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", _KILLED, str(path)], stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        seen = _numbers(process.stdout, 200)
        process.send_signal(signal.SIGKILL)
    assert [r.iteration for r in read(path)][:seen] == list(range(1, seen + 1))


def long_journal(path: Path, iterations: int) -> None:
    """A journal that two attempts wrote: every second iteration, and those between them."""
    with path.open("wb") as file:
        for attempt, first in ((1, 2), (2, 1)):
            for iteration in range(first, iterations + 1, 2):
                values = {"train/loss": iteration / 7, "lr": 0.1}
                file.write(line(1, attempt, iteration, 1, "result", values, repeat=False))


def test_a_checkpoint_far_back_takes_no_memory(path: Path, warned: Warnings) -> None:
    """All that a long journal holds runs again, compared with it as it comes, a line at a time."""
    long_journal(path, 10_000)
    before = path.read_bytes()
    tracemalloc.start()
    try:
        journal = Journal.open(path, attempt=3, warn=warned)
        for iteration in range(1, 10_001):
            journal.log(iteration, 1, {"train/loss": iteration / 7, "lr": 0.1})
        peak = tracemalloc.get_traced_memory()[1]
        held = list(read(path))  # the control: what holding it would take
        control = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(held) == 10_000
    assert path.read_bytes() == before
    assert warned == []
    assert peak < 300_000
    assert control > 3_000_000


def test_the_offset_goes_back_to_the_first_part_still_awaited(path: Path, warned: Warnings) -> None:
    """What two attempts wrote is met in order of iteration, and none of it is passed over."""
    long_journal(path, 6)
    records = {record.iteration: record for record in read(path)}
    journal = Journal.open(path, attempt=3, warn=warned)
    offsets = []
    for iteration in range(1, 7):
        journal.log(iteration, 1, {"train/loss": iteration / 7})
        offsets.append(journal.offset)
    assert offsets == [records[iteration].start for iteration in (2, 2, 4, 4, 6, 6)]
    journal.log(7, 1, {"train/loss": 1.0})
    assert journal.offset == path.stat().st_size
    assert journal.divergence is None


def test_a_divergence_is_found_in_the_second_part(path: Path, warned: Warnings) -> None:
    """The control of the two tests above: a value of the later attempt that differs is seen."""
    long_journal(path, 100)
    journal = Journal.open(path, attempt=3, warn=warned)
    for iteration in range(1, 101):
        journal.log(iteration, 1, {"train/loss": iteration / 7 + (iteration == 51)})
    assert journal.divergence == Divergence(51, "train/loss", first=51 / 7, again=51 / 7 + 1)


def test_records_reach_the_disk_in_groups(
    path: Path, warned: Warnings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record costs one write, and no fsync before the checkpoint's."""
    calls = []
    write, fsync = os.write, os.fsync
    journal = Journal.open(path, attempt=1, warn=warned)
    monkeypatch.setattr(os, "write", lambda *given: calls.append("write") or write(*given))
    monkeypatch.setattr(os, "fsync", lambda *given: calls.append("fsync") or fsync(*given))
    for iteration in range(3):
        journal.log(iteration, 1, {"loss": 1.0})
    journal.sync()
    assert calls == ["write", "write", "write", "fsync"]


@pytest.mark.parametrize(
    "damage", [b'{"metrics":{"a":1' + b"0" * 400 + b"}}", b'{"time":1e999}', b"\xff\xfe", b"[]"]
)
def test_a_line_of_any_damage_is_passed_over(path: Path, warned: Warnings, damage: bytes) -> None:
    """Numbers beyond every range, bytes that are no text and other JSON are no records."""
    whole = line(1, 1, 1, 1, "result", {"a": 1.0}, repeat=False)
    odd = whole.replace(b'{"a":1.0}', b'{"a":1' + b"0" * 400 + b"}")
    path.write_bytes(whole + damage + b"\n" + odd + whole)
    assert len(list(read(path))) == 2
