"""The pages about the class form: their code runs, and what they name is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import ROOT

from igniter import Model
from igniter.args import build_parser, parse
from igniter.settings import Settings

PAGES = ROOT / "docs"
QUIET = {"mlflow": False, "progress": "none", "picture": False}


def blocks(page: str, language: str) -> list[str]:
    """The blocks of code of a page."""
    text = (PAGES / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def rows(page: str) -> list[list[str]]:
    """The cells of each row of a page's tables; a bar within code is escaped."""
    lines = (PAGES / page).read_text(encoding="utf-8").splitlines()
    tables = [line for line in lines if line.startswith("|") and set(line) - set("|-: ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in tables]


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs go into a directory of the test's and leave out what takes time."""
    of = Settings.of

    def quietly(given: Mapping[str, Any]) -> Settings:
        return of({**given, **QUIET})

    monkeypatch.setattr(Settings, "of", quietly)
    monkeypatch.chdir(tmp_path)


def test_the_code_of_the_page_runs(quiet: None) -> None:
    """Each block of docs/model.md runs after those before it, its programs with their defaults."""
    (parts,) = blocks("model.md", "yaml")
    Path("parts.yaml").write_text(parts, encoding="utf-8")
    names: dict[str, Any] = {}
    programs = 0
    for number, block in enumerate(blocks("model.md", "python"), 1):
        exec(compile(block, f"block {number} of docs/model.md", "exec"), names)
        if "def main(args)" in block:
            parser = build_parser(arguments=names.get("arguments"))
            names["main"](parse(parser, ["--max-epochs", "1", "--learning-rate", "0.1"], {}))
            programs += 1
    assert programs == 2


ARGUS = """
train_step val_step prepare_batch deep_to deep_detach prediction_transform nn_module loss optimizer
params load_model fit validate predict save set_lr get_lr train eval on_start on_complete
on_epoch_start on_epoch_complete on_iteration_start on_iteration_complete on_catch_exception
Checkpoint MonitorCheckpoint EarlyStopping LoggingToFile LoggingToCSV ReduceLROnPlateau
"""
HELIOS = """
save_name is_distributed map_loc device rank trainer setup load_for_testing load_state_dict
state_dict trained_state_dict append_metadata_to_chkpt_name append_to_banner train
on_training_start on_training_epoch_start on_training_batch_start train_step on_training_batch_end
on_training_epoch_end on_training_end eval on_validation_start on_validation_batch_start valid_step
on_validation_batch_end on_validation_end have_metrics_improved should_training_stop
on_testing_start on_testing_batch_start test_step on_testing_batch_end on_testing_end
"""
ACCELERATED = """
create_train_dataloader get_default_train_dl_kwargs create_eval_dataloader
get_default_eval_dl_kwargs create_scheduler training_run_start training_run_epoch_end
training_run_end train_epoch_start calculate_train_batch_loss backward_step optimizer_step
scheduler_step optimizer_zero_grad train_epoch_end eval_epoch_start calculate_eval_batch_loss
eval_epoch_end evaluation_run_start evaluation_run_end _prepare_model_and_optimizer
_prepare_dataloaders _create_run_config _run_training _run_train_epoch _clip_gradients
_run_eval_epoch train evaluate save_checkpoint load_checkpoint run_history on_init_end
on_training_run_start on_train_epoch_start on_train_step_start on_train_step_end on_train_epoch_end
on_eval_epoch_start on_eval_step_start on_eval_step_end on_eval_epoch_end on_training_run_epoch_end
on_training_run_end on_evaluation_run_start on_evaluation_run_end on_stop_training_error
LogMetricsCallback ProgressBarCallback PrintProgressCallback SaveBestModelCallback
EarlyStoppingCallback TerminateOnNaNCallback LimitBatchesCallback ModelEmaCallback
ConvertSyncBatchNormCallback StepBasedEvaluationCallback LimitEvalStepsCallback
SaveTrainingStateCallback WSDCheckpointCallback ModelFreezer TrainerPlaceholderValues
"""


def names_in(cell: str) -> set[str]:
    """The names in the code of a cell."""
    return {name for code in re.findall("`([^`]*)`", cell) for name in re.findall(r"\w+", code)}


@pytest.mark.parametrize(
    ("system", "names", "column"),
    [("argus", ARGUS, 1), ("Helios", HELIOS, 2), ("pytorch-accelerated", ACCELERATED, 3)],
)
def test_the_maps_are_complete(system: str, names: str, column: int) -> None:
    """Each hook and callback of the other systems stands in its column, or among what is not."""
    mapped: set[str] = set()
    for cells in rows("coming-from.md"):
        if len(cells) >= 5:
            mapped |= names_in(cells[column])
        elif cells[0].startswith(system):
            mapped |= names_in(cells[0])
    assert set(names.split()) - mapped == set()


def test_what_the_maps_lead_to_is_there() -> None:
    """Each hook, method and flag of igniter that the page names exists, and no hook is left out."""
    first = [cells[0] for cells in rows("coming-from.md") if len(cells) >= 5]
    hooks = {name for cell in first for name in names_in(cell) if name.startswith("on_")}
    flags = {flag for cell in first for flag in re.findall("(?<=`)--[a-z-]+", cell)}
    assert hooks == {name for name in dir(Model) if name.startswith("on_")}
    known = {string for action in build_parser()._actions for string in action.option_strings}
    assert flags - known == set()
    for cells in rows("coming-from.md"):
        if len(cells) == 5:  # the first map
            for name in re.findall("`([a-z_]+)`", cells[0]):
                assert hasattr(Model, name) or name in vars(Model()) or name == "load_model", name


def test_every_hook_of_a_callback_is_one_of_a_model() -> None:
    """Both are called by the same names."""
    from igniter.hooks import hooks_of

    class Any_:
        def __getattr__(self, name: str) -> Any:
            return print

    assert set(hooks_of(Any_())) == {name for name in dir(Model) if name.startswith("on_")}


def functions_of(name: str) -> set[str]:
    """The functions in a file below tests/, those of a class as ``Class::function``."""
    path = ROOT / "tests" / name
    if not path.exists():
        return set()
    found = set()
    for part in ast.parse(path.read_text(encoding="utf-8")).body:
        inner = part.body if isinstance(part, ast.ClassDef) else [part]
        prefix = f"{part.name}::" if isinstance(part, ast.ClassDef) else ""
        found |= {prefix + each.name for each in inner if isinstance(each, ast.FunctionDef)}
    return found


def test_each_feature_has_its_proof() -> None:
    """No row of docs/features.md lacks a test, and each test that is named is there."""
    missing = []
    for feature, _, how, proof in rows("features.md"):
        if feature in ("feature", "fault"):
            continue
        file, separator, test = proof.partition("::")
        if not (how and separator and test in functions_of(file)):
            missing.append(f"{feature}: {proof}")
    assert missing == []


def test_the_page_has_every_ready_made_callback() -> None:
    """Each name of igniter.handlers, and each hook and method a model may override, is on it."""
    from igniter import handlers
    from igniter.models.hooks import ModelHooks

    text = (PAGES / "model.md").read_text(encoding="utf-8")
    wanted = {*handlers.__all__, *(name for name in vars(ModelHooks) if not name.startswith("_"))}
    testing = {name for name in wanted if name.startswith("on_testing_")}  # "the same four"
    assert {name for name in wanted - testing if f"`{name}" not in text} == set()
