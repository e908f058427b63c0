"""Whether more or less of a metric is better, from the metric itself or from its name."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from igniter.errors import UsageError

Direction = Literal["max", "min"]

_LESS = (
    "loss cost error errors mistakes regret risk distance divergence perplexity ppl entropy bce "
    "xent nll mae mse rmse msle rmsle mape smape wer cer ter mer eer fpr fnr fid kid lpips brier "
    "discrepancy deviance jsd kld kl bpb bpc bpd failure failures false"
)
_MORE = (
    "accuracy acc correct precision recall sensitivity specificity f fbeta fscore auc auroc "
    "rocauc auprc ap map roc iou miou jaccard dice kappa mcc correlation corrcoef corr pearson "
    "spearman similarity likelihood elbo r explained bleu sacrebleu rouge meteor chrf cider psnr "
    "ssim ndcg dcg mrr hit hits hitrate top reward return returns inception exact success tpr tnr "
    "true"
)
_MEANING: dict[str, Direction] = {
    **dict.fromkeys(_LESS.split(), "min"),
    **dict.fromkeys(_MORE.split(), "max"),
}
_OTHER: dict[Direction, Direction] = {"max": "min", "min": "max"}
# Words that mean something with a number behind them alone: F1, R2, top-5.
_NUMBERED = frozenset({"f", "r", "top"})
_PIECE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def better(name: str, metric: Any = None) -> Direction:
    """Return ``max`` where a higher value of the metric ``name`` is the better, else ``min``.

    What ``metric``, the object behind it or the key of the step's output, says of itself wins:
    ``higher_is_better`` of torchmetrics' (that of the member which ``name`` ends with, of a
    collection), and the words in the name of an object's class. Else the words of ``name`` tell,
    without the evaluation's: the last one that is known, so that a ``dice_loss`` is a loss, and the
    other way round after ``neg`` or ``negative``.

    Raises:
        UsageError: none of these tells.
    """
    own = name.partition("/")[2] or name
    found = _of_object(own, metric) or _of_words(own)
    if found is None and isinstance(metric, str):
        found = _of_words(metric)
    if found is None:
        raise UsageError(
            f"it cannot be told from its name whether more or less of {name} is better; give "
            "--best-mode max or --best-mode min (search: mode=…)"
        )
    return found


def _of_object(name: str, metric: Any) -> Direction | None:
    if metric is None or isinstance(metric, str):
        return None
    # Of the class: a metric of ignite's makes up an attribute of any name.
    if hasattr(type(metric), "items"):
        # The longest, since one member's name may be the end of another's.
        fitting = [(key, member) for key, member in metric.items() if name.endswith(str(key))]
        if not fitting:
            return None
        key, member = max(fitting, key=lambda item: len(str(item[0])))
        return _of_object(str(key), member)
    higher = getattr(metric, "higher_is_better", None)
    if isinstance(higher, bool):
        return "max" if higher else "min"
    told = (_of_words(kind.__name__) for kind in type(metric).__mro__)
    return next((found for found in told if found is not None), None)


def _of_words(name: str) -> Direction | None:
    words = list(_words(name))
    for word in reversed(words):
        if word in _MEANING:
            found = _MEANING[word]
            return _OTHER[found] if words[0] in ("neg", "negative") else found
    return None


def _words(name: str) -> Iterator[str]:
    """``valF1_Score@10`` as val, f, score; a whole segment first: ``mIoU`` is one word."""
    for segment in re.split(r"[^0-9A-Za-z]+", name):
        pieces = _PIECE.findall(segment)
        whole = segment.rstrip("0123456789").lower()
        if whole in _MEANING and (whole not in _NUMBERED or whole != segment.lower()):
            yield whole
            continue
        for piece, after in zip(pieces, [*pieces[1:], ""], strict=True):
            word = piece.lower()
            if not word.isdigit() and (word not in _NUMBERED or after.isdigit()):
                yield word


def direction(
    mode: Literal["auto", "max", "min"], name: str | None, metrics: Mapping[str, Any]
) -> Direction:
    """Return ``mode``, or where it is ``auto`` what is better of the metric ``name``.

    ``metrics`` has the objects or keys by full name, ``eval/accuracy``. Without a ``name`` nothing
    is ranked, and the mode is ``max``.

    Raises:
        UsageError: it cannot be told.
    """
    if mode != "auto":
        return mode
    if name is None:
        return "max"
    found = holder(name, metrics)
    return better(name, None if found is None else metrics[found])


def holder(name: str, metrics: Iterable[str]) -> str | None:
    """Which of ``metrics``, by full name, gives the value ``name``; None where none does.

    What a metric gives several values by is below its own name.
    """
    holders = [full for full in metrics if name == full or name.startswith(f"{full}/")]
    return max(holders, key=len, default=None)
