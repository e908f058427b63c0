"""``load_model``: a model as a checkpoint, an export or MLflow holds it.

Nothing of what is read is run: classes are found among those that were imported, weights are
tensors alone.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from igniter.checkpoint import keys
from igniter.checkpoint.state import SavedObjects
from igniter.devices import device_named
from igniter.errors import CheckpointMismatch, UsageError
from igniter.imports import nearest
from igniter.models.model import Model
from igniter.models.saved import SavedModel, saved_at
from igniter.rng import kept_generators

PARTS = ("module", "loss", "optimizer", "scheduler", "prediction_transform")

AnyModel = TypeVar("AnyModel", bound=Model)


def load_model(
    path: str | Path,
    *,
    model_class: type[Model] | None = None,
    device: str | torch.device = "auto",
    strict: bool = True,
    tracking_uri: str | None = None,
    **parts: Any,
) -> Model:
    """The model that was saved at ``path``, in eval mode.

    Synopsis::

        model = load_model("output/train-3f2a", device="cpu", optimizer=None)
        model.predict(images)

    Args:
        path: a checkpoint's directory, a run's (its best, else its newest), that of an exported
            model, or what MLflow has: ``runs:/<run id>``, ``runs:/<run id>/checkpoints/best``,
            ``models:/<name>/<version>``.
        model_class: its class; the imported one of the name that was saved where it is None.
        device: ``auto`` or a torch device.
        strict: whether the class and the weights must be those that were saved. Else weights that
            fit are loaded, and a warning names the others.
        tracking_uri: of MLflow; ``MLFLOW_TRACKING_URI`` or ``mlflow.db`` here where it is None.
        parts: by name, other parameters for a part, as in ``Model({name: …})``. None leaves it
            out. A module has the saved weights all the same; an optimizer begins anew.

    Raises:
        UsageError: there is no such class, part, or place; or a part cannot be built.
        CheckpointMismatch: what is saved does not fit.
        RunRefused: it cannot be read, or is damaged.
    """
    if str(path).startswith(("runs:/", "models:/")):
        from igniter.tracking.downloads import fetch

        with TemporaryDirectory(prefix="igniter-") as folder:
            saved = saved_at(fetch(str(path), Path(folder), tracking_uri))
            return _loaded(saved.called(str(path)), model_class, device, strict, parts)
    return _loaded(saved_at(Path(path)), model_class, device, strict, parts)


def _loaded(
    saved: SavedModel,
    model_class: type[Model] | None,
    device: str | torch.device,
    strict: bool,
    parts: Mapping[str, Any],
) -> Model:
    described = saved.description
    owner = _class_of(saved, model_class, strict)
    known = {*described.parameters, *described.unknown, *PARTS}
    for name in parts:
        if name not in known and (hasattr(Model, name) or not hasattr(owner, name)):
            raise UsageError(f"{owner.__name__} has no part {name!r}{nearest(name, known)}")
    lacking = [name for name in described.unknown if name not in parts]
    if lacking:
        raise UsageError(
            f"{saved.origin} does not hold the parameters of {', '.join(lacking)}: they were no "
            f"plain data. Give them: load_model(…, {lacking[0]}=…)"
        )
    model = owner({**described.parameters, **parts})
    with kept_generators():
        model.build(device_named(device))
        if "optimizer" in saved.states and vars(model).get("optimizer") is None:
            model.optimizer = model.make("optimizer", model.trained_parameters())
    anew = [name for name, given in parts.items() if given is not None]
    _restore(model, saved, strict, anew)
    model.eval()
    return model


def _class_of(saved: SavedModel, given: type[Model] | None, strict: bool) -> type[Model]:
    """The class that the model was saved of, or the one that is given in its place."""
    path = saved.description.class_path
    name = path.partition(":")[2]
    if given is not None:
        if not (isinstance(given, type) and issubclass(given, Model)):
            raise UsageError(f"model_class is {given!r}; give a class that inherits from Model")
        if strict and name not in [base.__qualname__ for base in given.__mro__]:
            raise UsageError(
                f"{saved.origin} is a model of {path}, not of {given.__qualname__}; with "
                "strict=False what fits is loaded"
            )
        return given
    known = {f"{kind.__module__}:{kind.__qualname__}": kind for kind in _subclasses(Model)}
    if path in known:
        return known[path]
    # A script's classes are another module's where the script is imported.
    of_scripts = [
        kind
        for key, kind in known.items()
        if key.partition(":")[2] == name and "__main__" in (kind.__module__, path.partition(":")[0])
    ]
    if len(of_scripts) == 1:
        return of_scripts[0]
    raise UsageError(
        f"{saved.origin} is a model of {path}, which is not imported{nearest(path, known)}. Import "
        "it before load_model, or give model_class=…"
    )


def _subclasses(kind: type[AnyModel]) -> Iterator[type[AnyModel]]:
    """All below ``kind`` in the order of their definition: one that was defined anew is later."""
    for below in kind.__subclasses__():
        yield below
        yield from _subclasses(below)


def _restore(model: Model, saved: SavedModel, strict: bool, anew: list[str]) -> None:
    """Load modules, and what else is saved of the model but for the parts made ``anew``."""
    modules = model.modules()
    found = {name: _fitting(name, module, saved, strict) for name, module in modules.items()}
    states = {name: state for name, state in found.items() if state is not None}
    objects = {**modules, **model.to_save()}
    for name in objects:
        if name in saved.states and name not in modules and name not in anew:
            states[name] = saved.states[name]
    wanted = SavedObjects(
        {**modules, **{name: objects[name] for name in states}}, may_lack=lambda name: True
    )
    try:
        wanted.restore(states, saved.origin, saved.groups)
    except CheckpointMismatch as error:
        reason = str(error).partition("\nThe code that builds")[0]
        raise CheckpointMismatch(
            f"{reason}\nBuild it as it was, or leave it out, such as load_model(…, optimizer=None)"
        ) from error


def _fitting(
    name: str, module: torch.nn.Module, saved: SavedModel, strict: bool
) -> Mapping[str, Any] | None:
    """The state for the module; None where none is needed.

    Raises:
        CheckpointMismatch: ``strict``, and it does not fit.
    """
    plain = keys.unwrapped(module)
    own, state = keys.module_state(plain), saved.state_of(name, plain)
    if state is None and not own:
        return None  # such as a loss, of which an export has no file
    differing = ["nothing is saved of it"]
    if state is not None:
        differing = keys.how_it_differs(plain, state)
    if not differing:
        return state
    listed = "".join(f"\n  {line}" for line in differing)
    what = f"{saved.origin} does not fit {name!r} ({type(plain).__name__}):{listed}"
    if strict:
        raise CheckpointMismatch(
            f"{what}\nGive load_model(…, {name}=…) the parameters that it had, or load what fits "
            "with strict=False"
        )
    warnings.warn(f"{what}\nThe rest of it is loaded", stacklevel=2)
    fits = {
        key: value
        for key, value in (state or {}).items()
        if key in own and getattr(own[key], "shape", None) == getattr(value, "shape", None)
    }
    return {**own, **fits}
