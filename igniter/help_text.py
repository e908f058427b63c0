"""How ``--help`` of a training script reads."""

from __future__ import annotations

import argparse
import textwrap

EPILOG = """\
INTERVAL is "500 iterations", "1 epoch" or "10 minutes", several of them with commas between,
"never", or an ignite event such as "EPOCH_COMPLETED(every=2)". Minutes are for --save-every and
--print-every alone.

Every flag can also be set in a YAML file (--config), or by a variable such as IGNITER_BATCH_SIZE.

pytorch-igniter's names (--save-event, --eval-event, --train-log-event, --train-print-event,
--train-pbar) work too."""

_UNSET = {
    "max_iterations": "no limit",
    "epoch_length": "the length of the loader",
    "limit_batches": "no limit",
    "stop_after": "no limit",
    "checkpoint": "best where there is one, else latest",
    "eval_batch_size": "--batch-size",
    "output_dir": "output/SCRIPT-IDENTITY",
    "checkpoint_dir": "OUTPUT_DIR/checkpoints",
    "model_dir": "OUTPUT_DIR/model",
    "mlflow_tracking_uri": "MLFLOW_TRACKING_URI, or sqlite:///mlflow.db in the working directory",
    "mlflow_experiment_name": "MLFLOW_EXPERIMENT_NAME, or the script's name",
    "mlflow_run_name": "the name of the run's directory",
}
"""What happens where the default is None, by dest; nothing, where there is no entry."""


def _default_in_words(action: argparse.Action) -> str:
    """A default as the help shows it; worked out late, since a script can change defaults."""
    default = action.default
    if default is None or (isinstance(default, list) and not default):
        return _UNSET.get(action.dest, "none")
    if isinstance(default, bool) and action.nargs == 0:
        return "on" if default else "off"
    return str(default)


class HelpFormatter(argparse.HelpFormatter):
    """Shows defaults in words, keeps paragraphs, and breaks no line inside a flag's name."""

    # argparse has no public way to change these; its own formatters do it like this.
    def _get_help_string(self, action: argparse.Action) -> str:
        default = _default_in_words(action).replace("%", "%%")
        return (action.help or "").replace("%(default)s", default)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        filled = [self._split_lines(part, width - len(indent)) for part in text.split("\n\n")]
        return textwrap.indent("\n\n".join(map("\n".join, filled)), indent)
