"""Helios's tutorial, a classifier: a setup of one's own, hooks, TensorBoard with graph and hparams.

Needs the extra ``tensorboard`` besides.
"""

import torch
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split
from torch.utils.tensorboard import SummaryWriter

from igniter import Model
from igniter.args import train_kwargs
from igniter.handlers import CSVLog
from igniter.main import igniter_main


class Classifier(Model):
    def setup(self):
        self.net = nn.Sequential(
            nn.Conv2d(1, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        ).to(self.device)
        self.loss = nn.CrossEntropyLoss()
        rate = self.parameters["learning_rate"]
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=rate, momentum=0.9)

    def forward(self, inputs):
        return self.net(inputs)

    def metrics(self, name):
        return {"loss": "loss", "accuracy": Accuracy()}

    def board(self):
        return SummaryWriter(self.trainer.run_dir / "tensorboard")

    def on_training_start(self):
        with self.board() as board:
            board.add_graph(self.net, torch.zeros(1, 1, 8, 8, device=self.device))

    def on_validation_end(self, cycle, name, metrics):
        self.accuracy = metrics["eval/accuracy"]

    def on_training_end(self):
        with self.board() as board:
            board.add_hparams({**self.parameters, "momentum": 0.9}, {"accuracy": self.accuracy})


def main(args):
    images, targets = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    data = TensorDataset(pixels, torch.tensor(targets))
    training, validation = random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    workers = {"num_workers": args.workers}
    Classifier({"learning_rate": args.learning_rate}).fit(
        DataLoader(training, args.batch_size, shuffle=True, drop_last=True, **workers),
        DataLoader(validation, args.eval_batch_size, **workers),
        callbacks=[CSVLog()],
        **train_kwargs(args),
        parameters=vars(args),
    )


def arguments(parser):
    parser.set_defaults(
        max_epochs=2,
        batch_size=4,
        learning_rate=0.01,
        workers=2,
        save_every="1 epoch",
        log_every="10 iterations",
        tensorboard=True,
        deterministic=True,
    )


if __name__ == "__main__":
    igniter_main(main, arguments=arguments)
