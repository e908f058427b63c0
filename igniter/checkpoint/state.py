"""What a checkpoint holds of the user's objects: taken from them, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from igniter.checkpoint.compare import first_difference
from igniter.errors import CheckpointMismatch, UsageError


class SavedObjects:
    """The objects of ``to_save`` under their names.

    Anything with ``state_dict`` and ``load_state_dict`` will do, and a ``torch.Generator``. A
    compiled or data-parallel module is saved as the module it wraps, so its files load without the
    wrapper.

    Raises:
        UsageError: nothing is to be saved, or an object cannot be.
    """

    def __init__(self, to_save: Mapping[str, Any]) -> None:
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
        self._stepped: set[str] = set()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile, note which optimizers step; see :meth:`begin_iteration`."""
        hooks = [
            optimizer.register_step_post_hook(lambda *_, name=name: self._stepped.add(name))
            for name, optimizer in self.optimizers.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

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
        self._stepped.clear()

    def capture(self) -> dict[str, Any]:
        """Each object's state by name; tensors are the objects' own, not copies."""
        return {name: _state_of(value) for name, value in self._objects.items()}

    def restore(self, state: Mapping[str, Any], origin: str) -> None:
        """Put back what :meth:`capture` gave; ``origin`` names the checkpoint in errors.

        Raises:
            CheckpointMismatch: a name is missing on either side, or a state does not fit.
        """
        missing = sorted(set(self._objects) - set(state))
        unknown = sorted(set(state) - set(self._objects))
        if missing or unknown:
            raise CheckpointMismatch(
                f"{origin} does not fit to_save: it lacks {missing or 'nothing'} and holds "
                f"{unknown or 'nothing'} besides. Use the names it was saved under, or start "
                "afresh with --resume never"
            )
        for name, value in self._objects.items():
            try:
                _restore(value, state[name])
            except (RuntimeError, ValueError, KeyError, TypeError) as error:
                raise CheckpointMismatch(
                    f"{origin} does not fit to_save[{name!r}] ({type(value).__name__}): {error}\n"
                    "The code that builds it has changed since; build it as it was, or start "
                    "afresh with --resume never"
                ) from error

    def first_altered(self, state: Mapping[str, Any]) -> str | None:
        """What an object did not take back as it was in ``state``; None where all is equal."""
        for name, again in self.capture().items():
            difference = first_difference(state[name], again, f"to_save[{name!r}]")
            if difference is not None:
                return difference
        return None

    def gradients(self) -> dict[str, list[torch.Tensor | None]]:
        """The gradients still owed a step: of optimizers that did not step in this iteration."""
        return {
            name: [parameter.grad for parameter in _parameters(optimizer)]
            for name, optimizer in self.optimizers.items()
            if name not in self._stepped
        }

    def restore_gradients(self, gradients: Mapping[str, list[torch.Tensor | None]]) -> None:
        """Put back what :meth:`gradients` gave."""
        self._stepped = set(self.optimizers) - set(gradients)
        for name, saved in gradients.items():
            for parameter, gradient in zip(_parameters(self.optimizers[name]), saved, strict=True):
                parameter.grad = None if gradient is None else gradient.to(parameter.device)

    def modes(self) -> dict[str, dict[str, list[str]]]:
        """What a state_dict leaves out of each module: frozen parameters, parts in eval mode."""
        return {
            name: {
                "frozen": [key for key, p in module.named_parameters() if not p.requires_grad],
                "eval": [key for key, part in module.named_modules() if not part.training],
            }
            for name, module in self.modules.items()
        }

    def restore_modes(self, modes: Mapping[str, Mapping[str, list[str]]]) -> None:
        """Put back what :meth:`modes` gave."""
        for name, module in self.modules.items():
            frozen, in_eval = set(modes[name]["frozen"]), set(modes[name]["eval"])
            for key, parameter in module.named_parameters():
                parameter.requires_grad_(key not in frozen)
            for key, part in module.named_modules():
                part.training = key not in in_eval

    def set_learning_rate(self, rate: float) -> None:
        """Give every parameter group, and every scheduler that starts from it, a new rate."""
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], torch.Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
                if "initial_lr" in group:
                    group["initial_lr"] = rate
        for value in self._objects.values():
            if hasattr(value, "base_lrs"):
                value.base_lrs = [rate for _ in value.base_lrs]

    def non_finite(self, state: Mapping[str, Any]) -> str | None:
        """Where a module's ``state`` holds NaN, or a parameter infinity; None where all is well.

        An infinite buffer is not an error: attention masks are.
        """
        for name, module in self.modules.items():
            parameters = {key for key, _ in module.named_parameters()}
            for key, value in state[name].items():
                if not (isinstance(value, torch.Tensor) and value.is_floating_point()):
                    continue
                bad = ~torch.isfinite(value) if key in parameters else torch.isnan(value)
                if bool(bad.any()):
                    return f"to_save[{name!r}].{key}"
        return None


def unwrapped(value: Any) -> Any:
    """The module inside ``torch.compile`` and data-parallel wrappers; other objects themselves."""
    if hasattr(value, "_orig_mod"):
        return unwrapped(value._orig_mod)
    if isinstance(value, (torch.nn.DataParallel, torch.nn.parallel.DistributedDataParallel)):
        return unwrapped(value.module)
    return value


def _state_of(value: Any) -> Any:
    return value.get_state() if isinstance(value, torch.Generator) else value.state_dict()


def _restore(value: Any, state: Any) -> None:
    if isinstance(value, torch.Generator):
        value.set_state(state)
    else:
        value.load_state_dict(state)


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
