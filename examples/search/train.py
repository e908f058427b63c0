"""A search for a learning rate and a width: ``python train.py``, stopped and started at will."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main
from igniter.search import search


def main(args):
    inputs = torch.linspace(-3, 3, 480).unsqueeze(1)
    data = TensorDataset(inputs, inputs.sin())
    metrics = {"loss": "loss"}

    def objective(trial):
        rate = trial.suggest_float("learning_rate", 1e-3, 1.0, log=True)
        width = trial.suggest_int("width", 4, 64, log=True)
        model = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        part = {"model": model, "criterion": nn.functional.mse_loss, "metrics": metrics}
        return train(
            to_save={"model": model, "optimizer": optimizer},
            train_spec=RunSpec.train_spec(
                **part,
                optimizer=optimizer,
                loader=DataLoader(data, args.batch_size, shuffle=True),
                callback=[trial.pruning],
            ),
            eval_spec=RunSpec.eval_spec(**part, loader=DataLoader(data, args.eval_batch_size)),
            **trial.train_kwargs,
        )

    settings = train_kwargs(args)
    found = search(objective, metric="eval/loss", trials=12, parameters=vars(args), **settings)
    print(f"{found.parameters} gave a loss of {found.value:.4f}")


if __name__ == "__main__":
    igniter_main(main)
