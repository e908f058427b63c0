"""The history of a run's metrics: each one's values by iteration, over all attempts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from igniter.tracking import records


class History(Mapping[str, list[tuple[int, float]]]):
    """Name → [(iteration, value), …], ascending, each iteration once.

    What is logged is there under the name it is logged by, measured values (``perf/…``) included.
    Of values that came out different when iterations ran again it has the first, as MLflow does.

    The journal is read when something is first asked for.

    Args:
        journal: the run's ``journal.jsonl``; a run without one has no history.
        up_to: the run's last iteration that is done. The journal may hold later ones, from before
            a kill; they are still to come again.
    """

    def __init__(self, journal: Path, up_to: int) -> None:
        self._journal = journal
        self._up_to = up_to
        self._values: dict[str, list[tuple[int, float]]] | None = None

    def __getitem__(self, name: str) -> list[tuple[int, float]]:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def _read(self) -> dict[str, list[tuple[int, float]]]:
        if self._values is None:
            found: dict[str, dict[int, float]] = {}
            for record in records.read(self._journal):
                if record.repeat or record.iteration > self._up_to:
                    continue
                for name, value in record.metrics.items():
                    found.setdefault(name, {}).setdefault(record.iteration, value)
            self._values = {name: sorted(values.items()) for name, values in found.items()}
        return self._values
