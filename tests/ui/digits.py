"""The digits example with a picture at each evaluation, which stops itself.

``TEST_STOP`` is ``<iteration>:<signal>``: the signal is sent to itself after that iteration. The
picture of epoch n shows the first n test images in a row: its width says which one it is.
"""

from __future__ import annotations

import dataclasses
import os
import runpy
import signal
from pathlib import Path
from typing import Any

import torch

from igniter import RunSpec
from igniter.engine import Events
from igniter.main import igniter_main

EXAMPLE = Path(__file__).parents[2] / "examples" / "digits" / "train.py"
AT, SIGNAL = (os.environ.get("TEST_STOP") or "0:SIGTERM").split(":")
SCALE = 8

torch.set_num_threads(1)
digits = runpy.run_path(str(EXAMPLE))
main = digits["main"]
train = main.__globals__["train"]


def train_with_pictures(*, train_spec: RunSpec, eval_spec: RunSpec, **how: Any) -> None:
    """As ``train``."""
    images = [image.squeeze(0) for image, _ in eval_spec.loader.dataset]

    def stop(engine: Any) -> None:
        if engine.state.iteration == int(AT):
            os.kill(os.getpid(), signal.Signals[SIGNAL])

    def with_stop(engine: Any, trainer: Any) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, stop)

    def with_picture(engine: Any, trainer: Any) -> None:
        def draw(evaluator: Any) -> None:
            row = torch.cat(images[: trainer.state.epoch], dim=1)
            row = row.repeat_interleave(SCALE, 0).repeat_interleave(SCALE, 1)
            evaluator.log_image("first", row)

        engine.add_event_handler(Events.COMPLETED, draw)

    train(
        train_spec=dataclasses.replace(train_spec, callback=with_stop),
        eval_spec=dataclasses.replace(eval_spec, callback=with_picture),
        **how,
    )


if __name__ == "__main__":
    main.__globals__["train"] = train_with_pictures
    igniter_main(main, arguments=digits["arguments"])
