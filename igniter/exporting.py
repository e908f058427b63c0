"""The result of a completed run: its weights, and its modules as programs where that was asked."""

from __future__ import annotations

from igniter.assembled import Assembled
from igniter.export import export
from igniter.opening import Opened
from igniter.program import export_programs
from igniter.settings import Settings
from igniter.tracking.display import Display


def export_result(
    opened: Opened, assembled: Assembled, settings: Settings, display: Display
) -> None:
    """Export what the run came to; what cannot be is told, and stands in the final checkpoint."""
    directory, modules = opened.paths.model, assembled.objects.modules
    try:
        parameters, described = opened.record.parameters, assembled.about.model
        export(directory, assembled.exported(), parameters, described)
    except (OSError, RuntimeError, ValueError) as error:
        display.warn(f"the model was not exported to {directory}: {error}")
    logged = settings.mlflow_log_model and opened.target is not None
    problems = export_programs(
        directory,
        modules,
        assembled.examples.found,
        opened.record.iteration,
        dict.fromkeys([*settings.export, *(["torch"] if logged else [])]),
        signed=logged,
    )
    for name, problem in problems.items():
        if settings.export:
            display.warn(f"{name} was not exported: {problem}. Its weights are in {directory}")
        else:
            display.say(
                f"{name} cannot be logged as an MLflow model: {problem}. Its weights are in "
                f"{directory}; --no-mlflow-log-model leaves this out"
            )
