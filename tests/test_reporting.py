"""What a line about a run shows of its values."""

from __future__ import annotations

from igniter.reporting import at_a_glance

VALUES = {"eval/loss": 3.0, "train/loss": 1.0, "train/loss_epoch": 2.0, "eval/x_epoch": 4.0}


def test_the_window_in_mid_epoch() -> None:
    """Between two ends of epochs a training average is that of its last window."""
    glance = at_a_glance(VALUES, whole_epochs=False)
    assert glance == {"train/loss": 1.0, "eval/loss": 3.0, "eval/x_epoch": 4.0}


def test_the_epoch_at_its_end() -> None:
    """At an epoch's end a training average is the epoch's, whichever was logged last."""
    for values in (VALUES, dict(reversed(VALUES.items()))):
        glance = at_a_glance(values, whole_epochs=True)
        assert glance == {"train/loss": 2.0, "eval/loss": 3.0, "eval/x_epoch": 4.0}


def test_the_epoch_before_the_first_window() -> None:
    """A run with epochs shorter than a window shows what it has: the epoch's average."""
    assert at_a_glance({"train/loss_epoch": 2.0}, whole_epochs=False) == {"train/loss": 2.0}


def test_training_comes_first() -> None:
    """A line begins with training's values, in whatever order they came."""
    assert next(iter(at_a_glance(VALUES, whole_epochs=False))) == "train/loss"
