"""One MLflow run: what is written to it, in the form and the portions that MLflow takes.

Everything goes through ``MlflowClient`` with a run id. The fluent API (``mlflow.log_metric``) keeps
the run in a thread-local and ends it by itself, often with the wrong status. mlflow is imported
here and in :mod:`igniter.tracking.mlflow_store` alone, and never in the process that trains.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT, MLFLOW_LOGGED_IMAGES

from igniter.signature import Program
from igniter.tracking.artifacts import IMAGES, Artifact
from igniter.tracking.description import DataSet
from igniter.tracking.failures import Refused, RunGone, first_line, in_words
from igniter.tracking.mlflow_store import is_active, translated
from igniter.tracking.names import (
    MAX_METRICS,
    MAX_PARAMETERS,
    MAX_TAG_VALUE,
    RULE,
    MetricNames,
    Point,
    batches,
    flat,
    legal,
)

_DATA_SET_NAME = 500

T = TypeVar("T")


class MlflowRun:
    """A run on a tracking server or in a database.

    Its methods raise :class:`Unavailable` where MLflow cannot be reached, and :class:`RunGone`
    where the run was deleted.
    """

    def __init__(
        self,
        client: MlflowClient,
        uri: str,
        run_id: str,
        warn: Callable[[str], None],
        *,
        owned: bool = True,
    ) -> None:
        """``warn`` is told what MLflow will not have as it is.

        One that is not ``owned`` was made by somebody else, who starts and ends it.
        """
        self._client = client
        self._uri = uri
        self._warn = warn
        self.run_id = run_id
        self.owned = owned
        self._names: MetricNames | None = None

    def log_points(self, points: Sequence[Point]) -> None:
        """Send ``points``; any that MLflow refuses is left out with a warning."""
        names = self._names_in_mlflow(dict.fromkeys(point.name for point in points))
        for point in points:
            if math.isinf(point.value):
                # Without the iteration: said once.
                self._warn(
                    f"{point.name} came out infinite: MLflow keeps the largest float in place of "
                    "infinity, the journal keeps what it was"
                )
        metrics = [Metric(names[p.name], p.value, p.time, p.iteration) for p in points]
        for batch in batches(metrics, MAX_METRICS):
            self._send(batch, lambda part: self._log_batch(metrics=part))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set ``tags``, over what is there."""
        for name, value in tags.items():
            if len(value) > MAX_TAG_VALUE:
                self._warn(f"the tag {name} is cut from {len(value)} to {MAX_TAG_VALUE} characters")
        made = [RunTag(legal(name), value[:MAX_TAG_VALUE]) for name, value in tags.items()]
        for batch in batches(made, MAX_PARAMETERS):
            self._send(batch, lambda part: self._log_batch(tags=part))

    def log_parameters(self, parameters: Mapping[str, object]) -> dict[str, str]:
        """Send the parameters that the run lacks; return those it holds with another value.

        MLflow never changes a parameter, and drops the whole batch that one such came in.
        """
        wanted = flat(parameters)
        for note in wanted.notes:
            self._warn(note)
        with translated(self._uri):
            stored = self._client.get_run(self.run_id).data.params
        missing = [Param(name, text) for name, text in wanted.values.items() if name not in stored]
        for batch in batches(missing, MAX_PARAMETERS):
            self._send(batch, lambda part: self._log_batch(params=part))
        return {n: v for n, v in wanted.values.items() if n in stored and stored[n] != v}

    def log_data_sets(self, data_sets: Sequence[DataSet]) -> None:
        """Show the run as using ``data_sets``; one it has already, by name and digest, stays."""
        inputs = [
            DatasetInput(
                Dataset(
                    each.name[:_DATA_SET_NAME],
                    each.digest,
                    source_type="local" if "uri" in each.source else "code",
                    source=json.dumps(each.source),
                    profile=json.dumps(each.profile),
                ),
                [InputTag(MLFLOW_DATASET_CONTEXT, each.context[:_DATA_SET_NAME])],
            )
            for each in data_sets
        ]
        self._send(inputs, lambda part: self._client.log_inputs(self.run_id, list(part)))

    def log_artifact(self, artifact: Artifact) -> str | None:
        """Store a file; return what went wrong, if anything.

        The store of artifacts is a third party of its own (S3, GCS, a directory), so its failures
        say nothing of the run.
        """
        path = PurePosixPath(artifact.path)
        directory = None if path.parent == PurePosixPath() else str(path.parent)
        try:
            with tempfile.TemporaryDirectory(prefix="igniter-") as scratch:
                # MLflow takes the name from the file.
                file = Path(scratch, path.name)
                if isinstance(artifact.content, str):
                    file.write_text(artifact.content, encoding="utf-8")
                else:
                    file.symlink_to(artifact.content.absolute())
                self._client.log_artifact(self.run_id, str(file), directory)
            if directory == IMAGES:
                self._client.set_tag(self.run_id, MLFLOW_LOGGED_IMAGES, True)
        except Exception as error:
            return self._problem(error)
        return None

    def log_model(self, program: Program, register_as: str | None) -> str | None:
        """Log an exported model, and register it where a name is given; return what went wrong.

        What was done before is not done again.
        """
        try:
            from igniter.tracking import model

            model_id = model.log_model(self._client, self.run_id, program)
            if register_as is not None:
                model.register(self._client, self.run_id, model_id, register_as)
        except Exception as error:
            return self._problem(error)
        return None

    def _problem(self, error: Exception) -> str:
        """What MLflow, or whatever library keeps the files, had to say."""
        if isinstance(error, MlflowException):
            return in_words(self._uri, error)
        return first_line(str(error) or type(error).__name__)

    def set_running(self) -> None:
        """Show the run as running, whether it is new or was ended before; not if not ``owned``."""
        if not self.owned:
            return
        with translated(self._uri):
            self._client.update_run(self.run_id, "RUNNING")

    def set_ended(self, status: str, time: int) -> None:
        """End the run as ``status`` at ``time``, in ms since 1970, if it has not.

        One that is not ``owned`` has the tag ``igniter.status`` say so.
        """
        if not self.owned:
            self.set_tags({"igniter.status": status})
            return
        with translated(self._uri):
            info = self._client.get_run(self.run_id).info
            if (info.status, info.end_time) != (status, time):
                self._client.set_terminated(self.run_id, status, time)

    def _names_in_mlflow(self, names: Mapping[str, None]) -> dict[str, str]:
        """What each of the metrics ``names`` is called in MLflow; chosen now where it is not."""
        if self._names is None:
            with translated(self._uri):
                self._names = MetricNames(self._client.get_run(self.run_id).data.tags)
        found = {name: self._names.find(name) for name in names}
        if None in found.values():
            with translated(self._uri):
                there = self._client.get_run(self.run_id).data.metrics
            taken = {*there, *(sent_as for sent_as in found.values() if sent_as is not None)}
            tags = {}
            for name in [name for name, sent_as in found.items() if sent_as is None]:
                tag, value = self._names.choose(name, taken)
                tags[tag] = value
                found[name] = self._names.find(name)
                self._warn(f"the metric {name!r:.300} is called {found[name]!r} in MLflow: {RULE}")
            # First, so that whoever sends these points again calls them the same.
            self.set_tags(tags)
        return {name: sent_as for name, sent_as in found.items() if sent_as is not None}

    def _log_batch(self, **items: Sequence[Any]) -> None:
        self._client.log_batch(self.run_id, synchronous=True, **items)

    def _send(self, items: Sequence[T], send: Callable[[Sequence[T]], object]) -> None:
        try:
            with translated(self._uri):
                send(items)
        except Refused as refused:
            # A deleted run refuses everything, as bad a request as a bad value.
            if not is_active(self._client, self._uri, self.run_id):
                raise RunGone(self.run_id) from None
            if len(items) == 1:
                self._warn(f"MLflow refused {items[0]}, which is left out: {refused}")
                return
            middle = len(items) // 2
            self._send(items[:middle], send)
            self._send(items[middle:], send)
