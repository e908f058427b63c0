"""What a ``state_dict`` leaves out of a module: what is frozen, what is in eval mode, metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from igniter.checkpoint.keys import plain_key

# Of a metric of torchmetrics: the count of updates, which a mean is weighted by. And which members
# of a collection share their state: found out at the first update, and with other values would be
# found otherwise.
_OUTSIDE = ("_update_count", "_groups", "_groups_checked")


def make_persistent(module: torch.nn.Module) -> None:
    """Have the metrics of torchmetrics within ``module`` put what they gathered in its state."""
    for _, part in _metrics(module):
        # Of each: a wrapper leaves those within it out of its state.
        if hasattr(part, "persistent"):
            part.persistent(True)


def modes_of(module: torch.nn.Module) -> dict[str, Any]:
    """What :func:`restore_modes` puts back."""
    return {
        "frozen": [plain_key(k) for k, p in module.named_parameters() if not p.requires_grad],
        "eval": [plain_key(k) for k, part in module.named_modules() if not part.training],
        "metrics": {plain_key(key): kept_outside(part) for key, part in _metrics(module)},
    }


def kept_outside(metric: Any) -> dict[str, Any]:
    """What a metric of torchmetrics keeps of its state outside its ``state_dict``."""
    return {name: vars(metric)[name] for name in _OUTSIDE if name in vars(metric)}


def restore_modes(module: torch.nn.Module, modes: Mapping[str, Any]) -> None:
    """Put it back, after the module's state."""
    frozen, in_eval = set(modes["frozen"]), set(modes["eval"])
    for key, parameter in module.named_parameters():
        parameter.requires_grad_(plain_key(key) not in frozen)
    for key, part in module.named_modules():
        part.training = plain_key(key) not in in_eval
    for key, part in _metrics(module):
        vars(part).update(modes["metrics"].get(plain_key(key), {}))
        if hasattr(part, "device"):
            part._computed = None
            part.to(part.device)  # what was loaded is wherever it was


def _metrics(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Those of torchmetrics, recognised by their methods, not imported."""
    for key, part in module.named_modules():
        if all(callable(getattr(part, name, None)) for name in ("update", "compute", "persistent")):
            yield key, part
