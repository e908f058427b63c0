"""Run a training script that gets a signal in the middle: ``struck.py UPDATE SIGNAL SCRIPT …``.

The signal comes with the given update of the weights that this process makes. With ``forgets`` for
a signal there is none, and optimizers forget what they are given to load: a planted fault.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

update, name = int(sys.argv[1]), sys.argv[2]
sys.argv = sys.argv[3:]
sys.path[0] = str(Path(sys.argv[0]).parent)
made = 0


def strike(*_: object) -> None:
    """Send the signal if it is time."""
    global made
    made += 1
    if made == update:
        os.kill(os.getpid(), signal.Signals[name])


if name == "forgets":
    torch.optim.SGD.load_state_dict = lambda self, state: None  # type: ignore[method-assign]
else:
    register_optimizer_step_post_hook(strike)
runpy.run_path(sys.argv[0], run_name="__main__")
