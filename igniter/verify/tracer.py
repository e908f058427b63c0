"""Inside an attempt of ``igniter verify``: write down each iteration, and stop where told."""

from __future__ import annotations

import logging
import os
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from igniter.assembled import Assembled
from igniter.closures import private_generators, used
from igniter.engine import Engine, Events
from igniter.opening import Opened
from igniter.signals import send_to_self
from igniter.spec import RunSpec
from igniter.verify import trace
from igniter.verify.fingerprints import (
    fingerprints,
    generators,
    is_data,
    is_generator,
    saves_itself,
)
from igniter.verify.plan import Plan, Stop

# Larger things that no checkpoint holds are taken to be data, not state.
_LARGE = 16_384
_NO_STATE = (type, types.ModuleType, Engine, logging.Logger)
_LIBRARIES = frozenset({"torch", "ignite", "igniter", "numpy"})


def attach(
    plan: Plan,
    opened: Opened,
    assembled: Assembled,
    to_save: Mapping[str, Any],
    spec: RunSpec,
    *,
    name: str | None,
    own_root: Path,
) -> None:
    """Follow a run that is about to train; its user's handlers are attached."""
    run = str(opened.paths.root.relative_to(plan.directory))
    loaded, loader = opened.loaded, spec.loader
    begin = trace.Begin(
        run=run,
        name=name,
        own_root=str(own_root),
        iteration=opened.iteration,
        after_everything=loaded is not None and loaded.checkpoint.final,
        total=assembled.length.total,
        epoch_length=assembled.length.epoch,
        samples=_length(getattr(loader, "dataset", loader)),
        private=private_generators(loader),
        state=_by_name(assembled.objects.capture()),
    )
    _append(plan.trace, begin)
    _Tracer(plan, run, assembled, to_save, spec)


class _Tracer:
    def __init__(
        self,
        plan: Plan,
        run: str,
        assembled: Assembled,
        to_save: Mapping[str, Any],
        spec: RunSpec,
    ) -> None:
        self._plan, self._run, self._objects = plan, run, assembled.objects
        self._engine = assembled.run.engine
        self._batch: dict[str, str] = {}
        modules = [part for module in self._objects.modules.values() for part in module.modules()]
        tensors = [tensor for m in modules for tensor in (*m.parameters(), *m.buffers())]
        self._saved = {id(value) for value in (*to_save.values(), *modules, *tensors)}
        parts = _loaders_parts(spec.loader)
        # A sampler that refers to the data set is not the place to tell of that.
        self._skipped = self._saved | {id(part) for part in parts.values()}
        self._owners = {"the step": spec.step, **parts}
        for evaluator in assembled.evaluators:
            self._owners[f"the step of {evaluator.name}"] = evaluator.spec.step
        self._engines = [self._engine, *(e.engine for e in assembled.evaluators)]
        # The batch as the step gets it, before it changes anything in place.
        begin_step = self._engine.before_step

        def before_step() -> None:
            self._batch = fingerprints(self._engine.state.batch, "batch")
            begin_step()

        self._engine.before_step = before_step
        self._engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_iteration)

    def _after_iteration(self) -> None:
        iteration = self._engine.state.iteration
        entry = trace.Iteration(
            run=self._run,
            iteration=iteration,
            batch=self._batch,
            random=generators(),
            output=fingerprints(self._engine.state.output, "output"),
            state=_by_name(self._objects.capture()),
            used=list(self._used()),
        )
        _append(self._plan.trace, entry)
        stop = self._plan.stop
        if stop is not None and (stop.run, stop.iteration) == (self._run, iteration):
            _append(self._plan.trace, stop)
            send_to_self(stop.signal)

    def _used(self) -> Iterator[trace.Used]:
        told: dict[tuple[str, str], Any] = {}
        for owner, value in [*self._owners.items(), *self._handlers()]:
            found = used(value) if callable(value) else vars(value).items()
            for name, part in found:
                # What is in a container is told with it.
                outer = name.partition("[")[0]
                if (owner, name) in told or (outer != name and (owner, outer) in told):
                    continue
                if id(part) in self._skipped or not _may_change(part):
                    continue
                told[owner, name] = part
                stateful = saves_itself(part)
                limit = None if stateful else _LARGE
                parts = fingerprints(part, name, skip=self._skipped, limit=limit)
                yield trace.Used(owner, name, type(part).__name__, stateful, parts)

    def _handlers(self) -> Iterator[tuple[str, Any]]:
        for engine in self._engines:
            for event, handler in engine.attached():
                function = getattr(handler, "func", handler)
                label = getattr(function, "__qualname__", type(function).__name__)
                yield f"the handler {label.rpartition('.')[2]} of {event}", handler


def _loaders_parts(loader: Any) -> dict[str, Any]:
    """What a loader is made of and may keep state in: the user's objects and functions."""
    parts = {
        f"the {name.replace('_', ' ')}": getattr(loader, name, None)
        for name in ("dataset", "sampler", "batch_sampler", "collate_fn")
    }
    if not any(parts.values()):
        parts = {"the loader": loader}
    return {
        name: value
        for name, value in parts.items()
        if hasattr(value, "__dict__") and not _is_librarys_function(value)
    }


def _is_librarys_function(value: Any) -> bool:
    return isinstance(value, types.FunctionType) and _library(value) in _LIBRARIES


def _library(value: Any) -> str:
    return str(value.__module__).partition(".")[0]


def _may_change(value: Any) -> bool:
    """Whether ``value`` is data or an object of the user's own, rather than code or a library's."""
    if is_data(value) or is_generator(value):
        return True
    if isinstance(value, _NO_STATE):
        return False
    if saves_itself(value):
        return True
    library = _library(type(value))
    own = library not in _LIBRARIES and library not in sys.stdlib_module_names
    return hasattr(value, "__dict__") and (own or library == "__main__")


def _by_name(state: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {name: fingerprints(part, name) for name, part in state.items()}


def _append(path: Path, entry: trace.Begin | trace.Iteration | Stop) -> None:
    # Unbuffered: the next thing may be a SIGKILL.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    try:
        remaining = trace.line(entry)
        while remaining:
            remaining = remaining[os.write(descriptor, remaining) :]
    finally:
        os.close(descriptor)


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:
        return None
