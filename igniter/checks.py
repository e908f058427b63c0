"""What is looked at before training, so that it does not fail, or go wrong, hours later."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from igniter.closures import private_generators, unsaved
from igniter.errors import UsageError
from igniter.settings import Settings
from igniter.spec import RunSpec


def before_training(
    settings: Settings,
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    to_save: Mapping[str, Any],
    warn: Callable[[str], None],
) -> None:
    """Refuse what cannot work, and warn of what would be lost in a stop.

    Raises:
        UsageError: two specs share a metric object, or no evaluation gives the best metric.
    """
    _refuse_shared_metrics({"train": spec, **evaluations})
    _refuse_unknown_best(settings.best_metric, evaluations)
    for name, value in unsaved(spec.step, to_save.values()).items():
        warn(
            f"the training step uses {name} ({type(value).__name__}), whose state is not in "
            f"to_save: after a stop it would begin anew. Add it: to_save={{…, {name!r}: …}}"
        )
    for place in private_generators(spec.loader):
        warn(
            f"{place} is a random generator of its own, which igniter neither sets nor saves: "
            "after a stop it would begin anew. Draw from the global ones of python, numpy or torch"
        )


def _refuse_shared_metrics(specs: Mapping[str, RunSpec]) -> None:
    owners: dict[int, str] = {}
    for spec_name, spec in specs.items():
        for name, metric in spec.metrics.items():
            if isinstance(metric, str):
                continue
            owner = owners.setdefault(id(metric), f"{spec_name}/{name}")
            if owner != f"{spec_name}/{name}":
                raise UsageError(
                    f"one metric object is both {owner} and {spec_name}/{name}, and would mix "
                    "their values; make one for each"
                )


def _refuse_unknown_best(wanted: str | None, evaluations: Mapping[str, RunSpec]) -> None:
    known = [f"{name}/{metric}" for name, spec in evaluations.items() for metric in spec.metrics]
    if wanted is None or any(wanted == name or wanted.startswith(f"{name}/") for name in known):
        return
    raise UsageError(
        f"--best-metric {wanted}: no evaluation gives it; there is {', '.join(known) or 'none'}"
    )
