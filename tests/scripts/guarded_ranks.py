"""Two processes of torch.distributed, of which the second alone has NaN, at iteration 4.

Each says in which iteration it failed, and why.
"""

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import torch

from igniter.errors import NonFiniteError
from igniter.handlers import NaNGuard


def main(rank: int) -> None:
    """Run one process."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{Path.cwd()}/store", rank=rank, world_size=2
    )
    guard = NaNGuard(every=3)
    trainer = SimpleNamespace(device=torch.device("cpu"), length=None, state=SimpleNamespace())
    for iteration in range(1, 8):
        trainer.state.iteration = iteration
        loss = float("nan") if (rank, iteration) == (1, 4) else 1.0
        try:
            guard.on_batch_end(trainer, None, {"loss": torch.tensor(loss)})
        except NonFiniteError as error:
            print(f"rank {rank} at {iteration}: {error}", flush=True)
            break
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    child = os.fork()
    main(1 if child == 0 else 0)
    if child == 0:
        os._exit(0)
    sys.exit(os.waitpid(child, 0)[1])
