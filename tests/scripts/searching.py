"""A search over small runs, which can stop itself anywhere.

``TEST_STOP`` is ``<place>:<trial>:<iteration>:<signal>``. Places: ``drawn``, between two
parameters; ``step``; ``evaluation``, in the midst of one; ``report``, after the metric was
reported; ``export``, when the run has ended and does not know it; ``tell``, when the run has ended
and its trial has not. ``TEST_CARELESS`` has the sampler carry its state.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import optuna
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, exporting, studies, train
from igniter.args import train_kwargs
from igniter.main import igniter_main
from igniter.search import search

torch.set_num_threads(1)
PLACE, TRIAL, AT, SIGNAL = (os.environ.get("TEST_STOP") or "nowhere:0:0:SIGTERM").split(":")
tell, report = optuna.Study.tell, optuna.Trial.report
export = exporting.export_result


def stop_here(place: str, trial: int, iteration: int = 0) -> None:
    """Send the signal if this is the place."""
    if (place, trial, iteration) == (PLACE, int(TRIAL), int(AT)):
        os.kill(os.getpid(), signal.Signals[SIGNAL])


def tell_slowly(study, trial, *given, **how):
    """Tell, after the place to stop."""
    stop_here("tell", trial)
    return tell(study, trial, *given, **how)


def report_slowly(trial, value, step):
    """Report, before the place to stop."""
    report(trial, value, step)
    stop_here("report", trial.number, step)


def export_slowly(opened, *given):
    """Export, after the place to stop: between the final checkpoint and the word of it."""
    stop_here("export", int(opened.paths.root.name.removeprefix("trial-")))
    export(opened, *given)


optuna.Study.tell, optuna.Trial.report = tell_slowly, report_slowly
exporting.export_result = export_slowly


def reseed_once(self, number, parameter=""):
    """Let the sampler's draws follow from those before."""
    if not hasattr(self, "seeded"):
        self.seeded = True
        self.study.sampler = self._make(seed=self.seed)


if os.environ.get("TEST_CARELESS"):
    studies.Study.reseed = reseed_once


def main(args) -> None:
    """Search for the rate, the width and the activation of a small network."""
    inputs = torch.linspace(-1, 1, 24).unsqueeze(1)
    data = TensorDataset(inputs, inputs.square())

    def objective(trial):
        rate = trial.suggest_float("rate", 1e-3, 1.0, log=True)
        stop_here("drawn", trial.number)
        width = trial.suggest_int("width", 2, 8)
        kind = trial.suggest_categorical("kind", ["Tanh", "ReLU"])
        model = nn.Sequential(nn.Linear(1, width), getattr(nn, kind)(), nn.Linear(width, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)

        def train_step(engine, batch):
            optimizer.zero_grad()
            loss = (model(batch[0] + 0.1 * torch.randn(8, 1)) - batch[1]).square().mean()
            loss.backward()
            optimizer.step()
            stop_here("step", trial.number, engine.state.iteration)
            return {"loss": loss}

        def eval_step(engine, batch):
            stop_here("evaluation", trial.number, engine.stage)
            return {"loss": (model(batch[0]) - batch[1]).square().mean()}

        return train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec(
                step=train_step,
                loader=DataLoader(data, batch_size=8, shuffle=True),
                metrics={"loss": "loss"},
                callback=[trial.pruning],
            ),
            eval_spec=RunSpec(
                step=eval_step, loader=DataLoader(data, batch_size=8), metrics={"loss": "loss"}
            ),
            **trial.train_kwargs,
        )

    found = search(
        objective,
        metric="eval/loss",
        trials=args.trials,
        sampler=lambda seed: optuna.samplers.TPESampler(n_startup_trials=2, seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=3),
        storage=args.storage,
        parameters=vars(args),
        **train_kwargs(args),
    )
    facts = {**vars(found), "run_dir": str(found.run_dir), "parameters": dict(found.parameters)}
    Path("found.json").write_text(json.dumps(facts), encoding="utf-8")


def arguments(parser) -> None:
    """Add the flags of the search."""
    parser.add_argument("--trials", type=int, default=7)
    parser.add_argument("--storage", default="sqlite")


if __name__ == "__main__":
    igniter_main(main, arguments=arguments)
