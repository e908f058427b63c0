"""Optimizers put back as they were: their groups by the names of parameters, their entries.

An optimizer's own state knows its parameters by position alone. With their names, groups that a
handler added during training are added again, and another order of the same shapes is noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from igniter.checkpoint.compare import first_difference
from igniter.checkpoint.gradients import parameters
from igniter.checkpoint.keys import plain_key, some
from igniter.devices import to_device

Groups = list[list[str | None]]


def group_names(optimizer: torch.optim.Optimizer, modules: Mapping[str, torch.nn.Module]) -> Groups:
    """The name of each parameter of each group, as ``model.0.weight``; None in no module."""
    names = {id(parameter): name for name, parameter in reversed(_named(modules).items())}
    return [[names.get(id(p)) for p in group["params"]] for group in optimizer.param_groups]


def restore_groups(
    optimizer: torch.optim.Optimizer, saved: Groups, modules: Mapping[str, torch.nn.Module]
) -> None:
    """Add the groups that ``saved`` has besides the optimizer's own.

    Raises:
        ValueError: the groups do not fit; the text says how.
    """
    named = _named(modules)
    own = optimizer.param_groups
    for index, (names, group) in enumerate(zip(saved, own, strict=False)):
        _check(index, names, group["params"], named, group_names(optimizer, modules)[index])
    if len(own) > len(saved):
        extra = [name for group in group_names(optimizer, modules)[len(saved) :] for name in group]
        raise ValueError(
            f"it has {len(own)} parameter groups and had {len(saved)}; new in the code: "
            f"{_some(extra)}"
        )
    for names in saved[len(own) :]:
        unknown = [name for name in names if name not in named]
        if unknown:
            raise ValueError(
                f"it has {len(own)} parameter groups and had {len(saved)}, one of them with "
                f"{_some(unknown)}, which no module of to_save has now"
            )
        add_group(optimizer, {name: named[name] for name in names if name is not None})


def add_group(
    optimizer: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter], **options: Any
) -> None:
    """Give ``optimizer`` a group of parameters, which are called as :func:`group_names` does."""
    group: dict[str, Any] = {"params": list(named.values())}
    if "param_names" in optimizer.param_groups[0]:  # one that keeps names takes none without
        group["params"] = [(name.partition(".")[2], value) for name, value in named.items()]
    optimizer.add_param_group(group | options)


def restore_entries(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Put back, of a loaded ``state``, what torch's ``load_state_dict`` does not leave as it was.

    It casts tensors to their parameter's type, and has no way to copy a string. That the optimizer
    has made steps is told to schedulers, which would warn that they are first.
    """
    optimizer._opt_called = True  # type: ignore[attr-defined]
    if type(optimizer).state_dict is not torch.optim.Optimizer.state_dict:
        return  # a format of its own, which it knows itself
    for index, parameter in enumerate(parameters(optimizer)):
        live = optimizer.state.get(parameter, {})
        for key, value in state["state"].get(index, {}).items():
            if key in live and first_difference(value, live[key], "") is not None:
                live[key] = to_device(value, parameter.device)


def _check(
    index: int,
    names: Sequence[str | None],
    params: Sequence[torch.nn.Parameter],
    named: Mapping[str, torch.nn.Parameter],
    now: Sequence[str | None],
) -> None:
    if len(names) != len(params):
        new = [name for name in now if name not in names]
        gone = [name for name in names if name not in now]
        raise ValueError(
            f"its parameter group {index} has {len(params)} parameters and had {len(names)}; "
            f"new in the code: {_some(new)}; gone: {_some(gone)}"
        )
    for name, parameter, name_now in zip(names, params, now, strict=True):
        if name is not None and name in named and named[name] is not parameter:
            raise ValueError(
                f"its parameter group {index} holds its parameters in another order: "
                f"{name_now or 'another one'} stands where {name} did"
            )


def _named(modules: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Parameter]:
    return {
        f"{key}.{plain_key(name)}": parameter
        for key, module in modules.items()
        for name, parameter in module.named_parameters(remove_duplicate=False)
    }


def _some(names: Sequence[str | None]) -> str:
    return some([name or "(in no module)" for name in names]) or "nothing"
