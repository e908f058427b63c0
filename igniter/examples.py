"""What each module is called with while training: an example of its input, from the user's data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

_SAMPLES = 2  # of one alone, torch.export would take it that there is never more


class Examples:
    """Keeps the first two samples that each of the ``modules`` is first called with.

    A module is as the steps call it, compiled or not. ``found`` has by name the samples, on the
    CPU, or else why there are none.
    """

    def __init__(self, modules: Mapping[str, torch.nn.Module]) -> None:
        never = "it was never called, or in compiled code alone"
        self.found: dict[str, torch.Tensor | str] = dict.fromkeys(modules, never)
        # TorchScript refuses to have its calls looked at.
        self._modules = {
            name: module
            for name, module in modules.items()
            if not isinstance(module, torch.jit.ScriptModule)
        }

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Meanwhile, look at the first call of each; it costs the others nothing."""
        handles = [self._watch(name, module) for name, module in self._modules.items()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _watch(self, name: str, module: torch.nn.Module) -> Any:
        def look(_: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if torch.compiler.is_compiling():
                return  # what is done here would become part of the user's graph
            handle.remove()
            self.found[name] = _samples(args, kwargs)

        handle = module.register_forward_pre_hook(look, with_kwargs=True)
        return handle


def _samples(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> torch.Tensor | str:
    if len(args) != 1 or kwargs or not isinstance(args[0], torch.Tensor):
        return "it is not called with one tensor and nothing else"
    batch = args[0].detach()
    if batch.dim() == 0 or len(batch) == 0:
        return f"it is called with a tensor of shape {tuple(batch.shape)}, which is no batch"
    few = batch[:_SAMPLES].to("cpu", copy=True)
    return few if len(few) == _SAMPLES else torch.cat([few] * _SAMPLES)
