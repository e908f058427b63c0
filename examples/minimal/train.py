"""The whole of a training program: ``python train.py --help``."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main


def main(args):
    inputs = torch.randn(10_000, 4)
    targets = inputs.sum(dim=1, keepdim=True)
    data = TensorDataset(inputs, targets)
    loader = DataLoader(data, args.batch_size, shuffle=True, num_workers=args.workers)
    model = nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.learning_rate)

    def train_step(engine, batch):
        inputs, targets = batch
        loss = nn.functional.mse_loss(model(inputs), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": loss}

    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=train_step, loader=loader, metrics={"loss": "loss"}),
        **train_kwargs(args),
        parameters=vars(args),
    )


if __name__ == "__main__":
    igniter_main(main)
