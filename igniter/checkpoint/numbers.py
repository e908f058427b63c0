"""The numbers of a state that must be sound for it to be saved."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Numbers:
    """A tensor of a state, under its place; ``infinite`` if it may hold infinity.

    Parameters may not. An infinite buffer is no error: attention masks are.
    """

    where: str
    values: torch.Tensor
    infinite: bool

    def are_sound(self) -> bool:
        """Whether there is no NaN among them, nor infinity where that may not be."""
        # A sum is read at the speed of memory; a test of each value takes many times as long.
        values = self.values.float() if self.values.itemsize < 2 else self.values  # float8
        if math.isfinite(values.sum()):
            return True
        bad = torch.isnan(values) if self.infinite else ~torch.isfinite(values)
        return not bool(bad.any())
