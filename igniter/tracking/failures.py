"""What sending to MLflow can run into."""

from __future__ import annotations


class Unavailable(Exception):
    """MLflow did not take it now; the same may be sent again later."""


class Refused(Exception):
    """MLflow will never take this as it is."""


class RunGone(Exception):
    """The MLflow run was deleted."""
