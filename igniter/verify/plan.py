"""What ``igniter verify`` asks of one process that trains, handed on in its environment."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from igniter.errors import UsageError
from igniter.settings import Settings
from igniter.spec import RunSpec

VARIABLE = "_IGNITER_VERIFY"
"""The variable that names the file of a plan; with IGNITER_ in front it would be a setting."""


@dataclass(frozen=True)
class Stop:
    """A signal that the process sends itself at the end of an iteration of one of its runs.

    ``save_every`` is how many iterations there are between checkpoints until then, 0 for none and
    None for what the script says.
    """

    run: str
    iteration: int
    signal: str
    save_every: int | None = None


@dataclass(frozen=True)
class Plan:
    """How one attempt trains.

    Args:
        directory: holds the runs and the trace; absolute.
        max_epochs, max_iterations, epoch_length: what the script asks for is cut to these.
        deterministic: use torch's deterministic kernels, whatever the script says.
        stop: where to stop; None to train to the end.
    """

    directory: str
    max_epochs: int | None = None
    max_iterations: int | None = None
    epoch_length: int | None = None
    deterministic: bool = False
    stop: Stop | None = None

    @property
    def trace(self) -> Path:
        """The file to which each iteration adds what it held."""
        return Path(self.directory) / "trace.jsonl"

    def write(self, path: Path) -> None:
        """Write the plan for a process to :func:`read`."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    def applied(
        self, settings: Settings, spec: RunSpec, own_root: Path
    ) -> tuple[Settings, RunSpec]:
        """The script's settings and spec, cut to the plan's size and kept out of its own runs.

        ``own_root`` is where the run would be without the plan. What is there is neither read nor
        written; two calls of ``train`` for one place still share one.

        Raises:
            UsageError: the script does not train.
        """
        if settings.eval_only:
            raise UsageError("only training can be verified: leave --eval-only or eval out")
        place = hashlib.blake2b(str(own_root.absolute()).encode(), digest_size=4).hexdigest()
        changed: dict[str, Any] = {
            "output_dir": Path(self.directory) / place,
            "tensorboard": False,
            "checkpoint_dir": None,
            "model_dir": None,
            "resume": "auto",
            "stop_after": None,
            "mlflow": False,
            "picture": False,
            "progress": "plain",
            "max_epochs": _least(settings.max_epochs, self.max_epochs),
            "max_iterations": _least(settings.max_iterations, self.max_iterations),
            "deterministic": settings.deterministic or self.deterministic,
        }
        if self.stop is not None and self.stop.save_every is not None:
            changed["save_every"] = self.stop.save_every or "never"
        if spec.max_epochs is not None:
            spec = replace(spec, max_epochs=_least(spec.max_epochs, self.max_epochs))
        if self.epoch_length is not None:
            asked = spec.epoch_length or settings.epoch_length or _length(spec.loader)
            spec = replace(spec, epoch_length=_least(asked, self.epoch_length))
        return replace(settings, **changed), spec


def read() -> Plan | None:
    """The plan of this process; None where it is no attempt of ``igniter verify``."""
    path = os.environ.get(VARIABLE)
    if not path:
        return None
    fields = json.loads(Path(path).read_text(encoding="utf-8"))
    stop = fields.pop("stop")
    return Plan(**fields, stop=None if stop is None else Stop(**stop))


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)


def _length(loader: Any) -> int | None:
    try:
        # An empty one is for train() to refuse.
        return len(loader) or None
    except TypeError:
        return None
