"""One attempt with the ready-made callbacks, stopped as ``TEST_STOP`` says: ``7:SIGKILL``."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from handled import Part, attempt, images

from igniter.handlers import EMA, SWA, CSVLog, EarlyStopping, Freezer, Mixup


def build() -> Part:
    """All that have a state, and the table."""
    freezer = Freezer("model.1", until=6, eval_batch_norm=True)
    others = [Mixup(0.4, num_classes=3), EarlyStopping(patience=5), CSVLog()]
    average = EMA(decay=0.8)
    return Part([freezer, *others, SWA(start=4, loader=images())], weights=average)


if __name__ == "__main__":
    at, _, how = os.environ["TEST_STOP"].partition(":")
    attempt(Path("run"), build, int(at) if at else None, how=how)
