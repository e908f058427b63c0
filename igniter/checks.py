"""What is looked at before training, so that it does not fail, or go wrong, hours later."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from igniter.checkpoint.gradients import parameters
from igniter.checkpoint.state import SavedObjects
from igniter.closures import parts, private_generators, unsaved
from igniter.directions import holder
from igniter.engine import Engine, StepEngine
from igniter.errors import UsageError
from igniter.evaluation import Evaluator
from igniter.phases import loaders_of
from igniter.settings import Settings
from igniter.spec import RunSpec, metrics_by_full_name


def before_training(
    settings: Settings,
    spec: RunSpec,
    evaluations: Mapping[str, RunSpec],
    objects: SavedObjects,
    warn: Callable[[str], None],
) -> None:
    """Refuse what cannot work, and warn of what would be lost in a stop.

    Raises:
        UsageError: two specs share a metric object, no evaluation gives the best metric, or a
            module has lazy parameters that nothing has made real.
    """
    _refuse_shared_metrics({"train": spec, **evaluations})
    _refuse_unknown_best(settings.best_metric, evaluations)
    _refuse_lazy(objects.modules)
    _warn_of_strangers(objects, warn)
    for loader in loaders_of(spec.loader):
        for place in private_generators(loader):
            warn(
                f"{place} is a random generator of its own, which igniter neither sets nor saves: "
                "after a stop it would begin anew. Draw from the global ones of python, numpy or "
                "torch"
            )


def unsaved_state(
    spec: RunSpec,
    engine: StepEngine,
    evaluators: Iterable[Evaluator],
    objects: SavedObjects,
    warn: Callable[[str], None],
) -> dict[str, torch.nn.Module]:
    """Warn of state that steps and handlers use, that training changes and ``to_save`` lacks.

    To be called when all handlers are attached. Returns the modules of which only training shows
    whether they change, under words that name them.
    """
    loader_parts = ("dataset", "sampler", "batch_sampler")
    known = [
        *objects.by_name.values(),
        *(metric for metric in spec.metrics.values() if not isinstance(metric, str)),
        *loaders_of(spec.loader),
        *(getattr(each, name, None) for each in loaders_of(spec.loader) for name in loader_parts),
    ]
    found: dict[int, tuple[str, str, Any]] = {}
    for words, function, in_training in _functions(spec, engine, evaluators):
        for name, value in unsaved(function, known).items():
            # An evaluation begins anew after a stop, and its metrics with it.
            if not (isinstance(value, Engine) or (_is_metric(value) and not in_training)):
                found.setdefault(id(value), (words, name, value))
    optimizers = [v for *_, v in found.values() if isinstance(v, torch.optim.Optimizer)]
    trained = {
        id(parameter)
        for optimizer in (*objects.optimizers.values(), *optimizers)
        for parameter in parameters(optimizer)
    }
    unclear: dict[str, torch.nn.Module] = {}
    for words, name, value in found.values():
        kind = type(value).__name__
        text = f"{words} uses {kind if name in ('self', kind) else f'{name} ({kind})'}"
        if _is_unclear(value, trained):
            unclear[text] = value
        else:
            warn(
                f"{text}, whose state is not in to_save: after a stop it would begin anew. Add "
                f"it: to_save={{…, {_key(name, value)!r}: …}}"
            )
    return unclear


def _functions(
    spec: RunSpec, engine: StepEngine, evaluators: Iterable[Evaluator]
) -> Iterator[tuple[str, Any, bool]]:
    """Each function of the user's with words for it, and whether it belongs to training."""
    yield "the training step", spec.step, True
    for event, handler in engine.attached():
        yield f"a handler of {event}", handler, True
    for evaluator in evaluators:
        yield f"the step of evaluation {evaluator.name!r}", evaluator.spec.step, False
        for event, handler in evaluator.engine.attached():
            yield f"a handler of {event} of evaluation {evaluator.name!r}", handler, False


def _is_metric(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("reset", "update", "compute"))


def _is_unclear(value: Any, trained: set[int]) -> bool:
    """Whether it may stay as it is: a module of which no optimizer holds a part."""
    return isinstance(value, torch.nn.Module) and not any(
        id(parameter) in trained for parameter in value.parameters()
    )


def _key(name: str, value: Any) -> str:
    return name if name.isidentifier() and name != "self" else type(value).__name__.lower()


def _refuse_lazy(modules: Mapping[str, torch.nn.Module]) -> None:
    for name, module in modules.items():
        for key, parameter in module.named_parameters():
            if torch.nn.parameter.is_lazy(parameter):
                raise UsageError(
                    f"to_save[{name!r}].{key} is a lazy parameter that has no shape yet, so it "
                    "cannot be saved. Call the module on one batch before the optimizer is made"
                )


def _warn_of_strangers(objects: SavedObjects, warn: Callable[[str], None]) -> None:
    """Warn of optimizers that update what no saved module holds."""
    held = {
        id(parameter)
        for value in objects.by_name.values()
        for part in parts(value)
        if isinstance(part, (torch.nn.Module, torch.Tensor))
        for parameter in (
            [part] if isinstance(part, torch.Tensor) else part.parameters(recurse=False)
        )
    }
    for name, optimizer in objects.optimizers.items():
        own = parameters(optimizer)
        strange = [parameter for parameter in own if id(parameter) not in held]
        if not strange:
            continue
        count = f"{len(strange)} of its {len(own)}" if len(strange) < len(own) else f"{len(own)}"
        warn(
            f"to_save[{name!r}] updates {count} parameters that nothing in to_save holds (the "
            f"first has shape {tuple(strange[0].shape)}): after a stop they would begin anew. Save "
            "the module that holds them; if it is saved, make the optimizer after the module has "
            "its last form"
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
    known = metrics_by_full_name(evaluations)
    if wanted is None or holder(wanted, known) is not None:
        return
    raise UsageError(
        f"--best-metric {wanted}: no evaluation gives it; there is {', '.join(known) or 'none'}"
    )
