"""argus's MNIST example: a class of parts, the best checkpoints, early stopping, an adapting rate.

The data are the 1,797 handwritten digits that come with scikit-learn, here and in the other files.
"""

import torch
from ignite.metrics import Accuracy
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset, random_split

from igniter import Model, load_model
from igniter.args import train_kwargs
from igniter.handlers import EarlyStopping
from igniter.main import igniter_main


def network(n_classes, dropout):
    return nn.Sequential(
        nn.Conv2d(1, 10, 3, padding=1),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(10, 20, 3, padding=1),
        nn.Dropout2d(dropout),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(80, 50),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Linear(50, n_classes),
    )


class Digits(Model):
    module = network
    loss = nn.CrossEntropyLoss
    optimizer = torch.optim.SGD
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    step_on = "eval/accuracy"

    def metrics(self, name):
        return {"loss": "loss", "accuracy": Accuracy()}


def main(args):
    images, targets = load_digits(return_X_y=True)
    pixels = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    data = TensorDataset(pixels, torch.tensor(targets))
    training, validation = random_split(data, [1437, 360], torch.Generator().manual_seed(0))
    parts = {
        "module": {"n_classes": 10, "dropout": args.dropout},
        "optimizer": {"lr": args.learning_rate},
        "scheduler": {"mode": "max", "factor": 0.5, "patience": 3},
    }
    result = Digits(parts).fit(
        DataLoader(training, args.batch_size, shuffle=True),
        DataLoader(validation, args.eval_batch_size),
        callbacks=[EarlyStopping("eval/accuracy", patience=9)],
        **train_kwargs(args),
        parameters=vars(args),
    )
    print(load_model(result.best_checkpoint, device=args.device).parameters)


def arguments(parser):
    parser.add_argument("--dropout", type=float, default=0.1, help="share of channels dropped")
    parser.set_defaults(max_epochs=100, learning_rate=0.3, best_metric="eval/accuracy", keep_best=3)


if __name__ == "__main__":
    igniter_main(main, arguments=arguments)
