"""pytorch-igniter's MNIST script: the functional form, with its data as an input of the program."""

from pathlib import Path

import numpy
import sklearn
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

DIGITS = Path(sklearn.__file__).parent / "datasets/data/digits.csv.gz"


def main(args):
    table = torch.tensor(numpy.loadtxt(args.data, delimiter=","), dtype=torch.float32)
    data = TensorDataset(table[:, :64].reshape(-1, 1, 8, 8) / 16, table[:, 64].long())
    training, evaluation = random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.LeakyReLU(),
        nn.Conv2d(32, 64, 3, stride=2),
        nn.LeakyReLU(),
        nn.Conv2d(64, 10, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)
    part = {
        "model": model,
        "criterion": nn.CrossEntropyLoss(),
        "metrics": {"loss": "loss", "accuracy": "accuracy"},
    }
    workers = {"num_workers": args.workers}
    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec.train_spec(
            **part,
            optimizer=optimizer,
            loader=DataLoader(training, args.batch_size, shuffle=True, **workers),
        ),
        eval_spec=RunSpec.eval_spec(
            **part, loader=DataLoader(evaluation, args.eval_batch_size, **workers)
        ),
        **train_kwargs(args),
        parameters=vars(args),
    )


def arguments(parser):
    parser.set_defaults(max_epochs=5, learning_rate=0.01, mlflow_experiment_name="digits")


if __name__ == "__main__":
    igniter_main(
        main, inputs={"data": DIGITS}, arguments=arguments, description="Train on the digits."
    )
