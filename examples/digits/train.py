"""Handwritten digits: a small network on the 1,797 real images that come with scikit-learn.

Train, stop with Ctrl-C (or kill -9) whenever you like, and start the same command again::

    python train.py
    python train.py --dropout 0.5 --max-epochs 60
    python train.py --help
"""

from __future__ import annotations

import argparse
import random

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, TensorDataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

TEST_IMAGES = 360


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """The images, each moved by up to a pixel and made a little noisy whenever it is read."""

    def __init__(self, images: Dataset[tuple[Tensor, ...]], length: int) -> None:
        self.images = images
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = self.images[index]
        down, right = random.randint(0, 2), random.randint(0, 2)
        moved = functional.pad(image, (1, 1, 1, 1))[:, down : down + 8, right : right + 8]
        return moved + 0.05 * torch.randn(moved.shape), label


def load_data() -> tuple[Dataset[tuple[Tensor, Tensor]], Dataset[tuple[Tensor, ...]]]:
    """The training images and the test images, 1 x 8 x 8 from 0 to 1; always the same split."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, training = order[:TEST_IMAGES], order[TEST_IMAGES:]
    return (
        Augmented(TensorDataset(images[training], labels[training]), len(training)),
        TensorDataset(images[test], labels[test]),
    )


def build_model(dropout: float) -> nn.Module:
    """Three convolutions and a linear layer on top."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(dropout),
        nn.Linear(128, 10),
    )


def main(args: argparse.Namespace) -> None:
    """Put the run together; igniter does the rest."""
    training_data, test_data = load_data()
    train_loader = DataLoader(
        training_data,
        batch_size=args.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=args.workers,
    )
    eval_loader = DataLoader(test_data, batch_size=args.eval_batch_size)

    model = build_model(args.dropout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate)
    # Falls with each iteration, whatever --max-epochs is: a finished run can be trained further.
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.997)
    criterion = nn.CrossEntropyLoss()

    def train_step(engine: object, batch: list[Tensor]) -> dict[str, Tensor]:
        model.train()
        images, labels = batch
        optimizer.zero_grad()
        output = model(images)
        loss = criterion(output, labels)
        loss.backward()
        optimizer.step()
        scheduler.step()
        return {"loss": loss, "accuracy": (output.argmax(dim=1) == labels).float()}

    def eval_step(engine: object, batch: list[Tensor]) -> dict[str, Tensor]:
        images, labels = batch
        output = model(images)
        return {
            "loss": criterion(output, labels),
            "accuracy": (output.argmax(dim=1) == labels).float(),
        }

    metrics = {"loss": "loss", "accuracy": "accuracy"}
    train(
        to_save={"model": model, "optimizer": optimizer, "scheduler": scheduler},
        train_spec=RunSpec(step=train_step, loader=train_loader, metrics=metrics),
        eval_spec=RunSpec(step=eval_step, loader=eval_loader, metrics=metrics),
        **train_kwargs(args),
        parameters=vars(args),
    )


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this script adds to igniter's flags, and the defaults it changes."""
    group = parser.add_argument_group("Digits")
    group.add_argument(
        "--dropout",
        type=float,
        default=0.3,
        metavar="P",
        help="share of features dropped in training (default: %(default)s)",
    )
    parser.set_defaults(
        max_epochs=40,
        learning_rate=3e-3,
        best_metric="eval/accuracy",
        mlflow_experiment_name="digits",
    )


if __name__ == "__main__":
    igniter_main(main, arguments=arguments, description="Train on handwritten digits.")
