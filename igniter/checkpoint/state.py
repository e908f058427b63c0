"""What a checkpoint holds of the user's objects: taken from them, and put back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from igniter.checkpoint import keys
from igniter.checkpoint.compare import first_difference, share_memory
from igniter.checkpoint.gradients import StepWatch, parameters
from igniter.checkpoint.groups import Groups, group_names, restore_entries, restore_groups
from igniter.checkpoint.keys import plain_key, unwrapped
from igniter.checkpoint.modes import make_persistent, modes_of, restore_modes
from igniter.checkpoint.numbers import Numbers
from igniter.errors import CheckpointMismatch, UsageError


class SavedObjects:
    """The objects of ``to_save`` under their names.

    Anything with ``state_dict`` and ``load_state_dict`` will do, and a ``torch.Generator``. A
    compiled or data-parallel module is saved as the module it wraps, and so are its compiled
    parts, so its files load without the wrappers.

    ``may_lack(name)`` tells of which objects a checkpoint may have no state, or one too many.

    Raises:
        UsageError: nothing is to be saved, or an object cannot be.
    """

    def __init__(
        self, to_save: Mapping[str, Any], may_lack: Callable[[str], bool] = lambda name: False
    ) -> None:
        if not to_save:
            raise UsageError(
                "to_save is empty, so nothing could be resumed; give what training changes, such "
                'as {"model": model, "optimizer": optimizer}'
            )
        for name, value in to_save.items():
            if not isinstance(value, torch.Generator) and not (
                hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
            ):
                raise UsageError(
                    f"to_save[{name!r}] is a {type(value).__name__}, which has no state_dict and "
                    "load_state_dict; leave it out, or give it the two methods"
                )
        self._objects = {name: unwrapped(value) for name, value in to_save.items()}
        for module in self.modules.values():
            make_persistent(module)
        self._may_lack = may_lack
        self._steps = {name: StepWatch(found) for name, found in self.optimizers.items()}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile, note which optimizers step; see :meth:`begin_iteration`."""
        hooks = [
            optimizer.register_step_post_hook(self._steps[name].stepped)
            for name, optimizer in self.optimizers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @property
    def by_name(self) -> Mapping[str, Any]:
        """All the objects, none of them wrapped."""
        return self._objects

    @property
    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules among the objects."""
        return {n: o for n, o in self._objects.items() if isinstance(o, torch.nn.Module)}

    @property
    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """The optimizers among the objects."""
        return {n: o for n, o in self._objects.items() if isinstance(o, torch.optim.Optimizer)}

    def begin_iteration(self) -> None:
        """Forget which optimizers stepped."""
        for steps in self._steps.values():
            steps.begin_iteration()

    def capture(self) -> dict[str, Any]:
        """Each object's state by name; tensors are the objects' own, not copies."""
        return {name: _state_of(value) for name, value in self._objects.items()}

    def restore(
        self, state: Mapping[str, Any], origin: str, groups: Mapping[str, Groups] | None = None
    ) -> None:
        """Put back what :meth:`capture` gave; ``origin`` names the checkpoint in errors.

        None of the memory of ``state`` is kept.

        ``groups`` is what :meth:`groups` gave: those that optimizers were given during training
        are added again.

        Raises:
            CheckpointMismatch: a name is missing on either side, or a state does not fit.
        """
        missing, unknown = (
            [name for name in names if not self._may_lack(name)] for names in self.unmatched(state)
        )
        if missing or unknown:
            raise CheckpointMismatch(
                f"{origin} does not fit to_save: it lacks {missing or 'nothing'} and holds "
                f"{unknown or 'nothing'} besides. Use the names it was saved under, or start "
                "afresh with --resume never"
            )
        copies: dict[int, Any] = {}
        # Modules first: what changed in them is the cause of what no longer fits elsewhere.
        found = [name for name in self._objects if name in state]
        for name in sorted(found, key=lambda name: name not in self.modules):
            value = self._objects[name]
            try:
                if groups is not None and name in self.optimizers:
                    restore_groups(value, groups[name], self.modules)
                _restore(value, state[name], copies)
            except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
                differing = []
                if isinstance(value, torch.nn.Module):
                    differing = keys.how_it_differs(value, state[name])
                raise self._mismatch(origin, name, differing or [str(error)]) from error

    def unmatched(self, state: Mapping[str, Any]) -> tuple[list[str], list[str]]:
        """The names of objects that ``state`` lacks, and of what it holds besides."""
        return sorted(set(self._objects) - set(state)), sorted(set(state) - set(self._objects))

    def groups(self) -> dict[str, Groups]:
        """The names of the parameters in each group of each optimizer."""
        return {name: group_names(found, self.modules) for name, found in self.optimizers.items()}

    def _mismatch(self, origin: str, name: str, lines: list[str]) -> CheckpointMismatch:
        listed = "".join(f"\n  {line}" for line in lines)
        return CheckpointMismatch(
            f"{origin} does not fit to_save[{name!r}] "
            f"({type(self._objects[name]).__name__}):{listed}\n"
            "The code that builds it has changed since. Build it as it was; or start afresh with "
            "--resume never or in another --output-dir, and put in what still fits from "
            f"torch.load('{origin}/state.pt')[{name!r}]"
        )

    def first_altered(self, state: Mapping[str, Any]) -> str | None:
        """What an object did not take back as it was in ``state``; None where all is equal."""
        for name, again in self.capture().items():
            if name in state:
                difference = first_difference(state[name], again, f"to_save[{name!r}]")
                if difference is not None:
                    return difference
        return None

    def gradients(self) -> dict[str, Any]:
        """The gradients that may be used again.

        Of each optimizer that has not used its own up, and, by module, of parameters that no
        optimizer has: clipping by the norm of them all counts what has gathered there.
        """
        held = {id(p) for found in self.optimizers.values() for p in parameters(found)}
        return {
            "optimizers": {
                name: [parameter.grad for parameter in parameters(optimizer)]
                for name, optimizer in self.optimizers.items()
                if self._steps[name].owed()
                and any(parameter.grad is not None for parameter in parameters(optimizer))
            },
            "modules": {
                name: {
                    plain_key(key): parameter.grad
                    for key, parameter in module.named_parameters()
                    if parameter.grad is not None and id(parameter) not in held
                }
                for name, module in self.modules.items()
            },
        }

    def restore_gradients(self, gradients: Mapping[str, Any]) -> None:
        """Put back what :meth:`gradients` gave."""
        for name, saved in gradients["optimizers"].items():
            for parameter, gradient in zip(parameters(self.optimizers[name]), saved, strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)
        for name, named in gradients["modules"].items():
            for key, parameter in self.modules[name].named_parameters():
                if plain_key(key) in named:
                    parameter.grad = named[plain_key(key)].to(parameter.device)

    def modes(self) -> dict[str, Any]:
        """What a state_dict leaves out of each module: see :mod:`igniter.checkpoint.modes`."""
        return {name: modes_of(module) for name, module in self.modules.items()}

    def restore_modes(self, modes: Mapping[str, Any]) -> None:
        """Put back what :meth:`modes` gave."""
        for name, module in self.modules.items():
            restore_modes(module, modes[name])

    def numbers(self, state: Mapping[str, Any]) -> list[Numbers]:
        """What must not be NaN in a ``state`` of the objects: floats of the modules."""
        return [
            Numbers(f"to_save[{name!r}].{key}", value, infinite=key not in trained)
            for name, module in self.modules.items()
            for trained in [{plain_key(key) for key, _ in module.named_parameters()}]
            for key, value in state[name].items()
            if isinstance(value, torch.Tensor) and value.is_floating_point()
        ]


def _state_of(value: Any) -> Any:
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, torch.nn.Module):
        return keys.module_state(value)
    state = value.state_dict()
    if isinstance(value, torch.optim.Optimizer):
        for group in state.get("param_groups", ()):  # its own copies
            if "param_names" in group:
                group["param_names"] = [plain_key(key) for key in group["param_names"]]
    return state


def _restore(value: Any, state: Any, copies: dict[int, Any]) -> None:
    """Put back a part of a state, with memory of its own where it would be kept.

    ``copies`` is the memo of ``deepcopy`` for the whole: tensors that share storage go on to.
    """
    if isinstance(value, torch.Generator):
        value.set_state(state)
    elif isinstance(value, torch.nn.Module):
        keys.load_module(value, state)
        if share_memory(keys.module_state(value), state):  # it assigns, as metrics do
            keys.load_module(value, copy.deepcopy(state, copies))
    elif isinstance(value, torch.optim.Optimizer):
        own = copy.deepcopy(state, copies)
        value.load_state_dict(own)
        restore_entries(value, own)
    else:
        value.load_state_dict(copy.deepcopy(state, copies))
