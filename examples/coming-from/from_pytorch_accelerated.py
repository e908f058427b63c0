"""pytorch-accelerated's quick start: train, validate after each epoch, test what was trained."""

import torch
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from igniter import Model
from igniter.args import train_kwargs
from igniter.main import igniter_main


def network():
    return nn.Sequential(
        nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10)
    )


class Digits(Model):
    module = network
    loss = nn.CrossEntropyLoss
    optimizer = torch.optim.SGD

    def metrics(self, name):
        return {"loss": "loss", "accuracy": Accuracy()}


def main(args):
    images, targets = load_digits(return_X_y=True)
    data = TensorDataset(torch.tensor(images, dtype=torch.float32) / 16, torch.tensor(targets))
    generator = torch.Generator().manual_seed(0)
    training, validation, testing = random_split(data, [1197, 300, 300], generator)
    model = Digits({"optimizer": {"lr": args.learning_rate, "momentum": 0.9}})
    model.fit(
        DataLoader(training, args.batch_size, shuffle=True),
        DataLoader(validation, args.eval_batch_size),
        **train_kwargs(args),
        parameters=vars(args),
    )
    print(model.test(DataLoader(testing, batch_size=64)))


def arguments(parser):
    parser.set_defaults(max_epochs=8, batch_size=32, learning_rate=0.05)


if __name__ == "__main__":
    igniter_main(main, arguments=arguments)
