"""An exported model as a logged model of MLflow, which can be served, and in its registry.

What MLflow's own ``mlflow.pytorch.log_model`` would store is put together here without loading the
program: `igniter sync` may run on a directory from anywhere, and loading it can run code. MLflow
looks at what is in it before it does.
"""

from __future__ import annotations

import re
import tempfile
from importlib.metadata import version
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

from igniter.signature import MODEL, WEIGHTS, Program

# What tells a model that was logged before, by its content.
_CONTENT = "igniter.content"
# The file that MLflow's loader of exported programs looks for.
_PROGRAM = "model.pt2"
_NOT_IN_NAME = re.compile(r"[/:.%\"']")


def log_model(client: MlflowClient, run_id: str, program: Program) -> str:
    """Log ``program`` as a model of the run, at its iteration; return the model's id.

    One with the same content is logged once, and one that was only begun is completed.

    Raises:
        Exception: of whatever stores the runs or the files.
    """
    run = client.get_run(run_id)
    found = client.search_logged_models(
        [run.info.experiment_id],
        f"source_run_id = '{run_id}' AND tags.`{_CONTENT}` = '{program.mark}'",
        max_results=1,
    )
    if found and str(found[0].status) == "READY":
        return str(found[0].model_id)
    model = (
        found[0]
        if found
        else client.create_logged_model(
            run.info.experiment_id,
            name=_NOT_IN_NAME.sub("_", program.name),
            source_run_id=run_id,
            tags={_CONTENT: program.mark},
            params=run.data.params,
        )
    )
    linked = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in [output.model_id for output in linked]:
        output = LoggedModelOutput(model.model_id, step=program.signature.iteration)
        client.log_outputs(run_id, [output])
    with tempfile.TemporaryDirectory(prefix="igniter-") as scratch:
        described = Model(
            artifact_path=model.artifact_location,
            run_id=run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        )
        _save(Path(scratch, "program"), Path(scratch, "model"), described, program)
        _add_weights(Path(scratch, "model", WEIGHTS), program.path.parent)
        client.log_model_artifacts(model.model_id, str(Path(scratch, "model")))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def register(client: MlflowClient, run_id: str, model_id: str, name: str) -> None:
    """Make the logged model a version of the registered model ``name``, once.

    Raises:
        Exception: of whatever stores the runs.
    """
    # Not models:/<id>: a database would look that up in whichever store the process has as its own.
    source = client.get_logged_model(model_id).artifact_location
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    versions = client.search_model_versions(f"run_id = '{run_id}'")
    if (name, source) not in [(version.name, version.source) for version in versions]:
        client.create_model_version(
            name, source, run_id=run_id, model_id=model_id, await_creation_for=0
        )


def _save(data: Path, path: Path, described: Model, program: Program) -> None:
    """Lay out the model at ``path`` as MLflow's PyTorch flavour reads it."""
    data.mkdir()
    (data / _PROGRAM).symlink_to(program.path.absolute())
    release = program.torch.partition("+")[0]
    described.add_flavor(
        "pytorch", model_data=f"data/{data.name}", pytorch_version=release, code=None
    )
    given = program.signature
    example = None
    if given.example is not None:
        example = np.array(given.example, dtype=given.input_dtype)
    mlflow.pyfunc.save_model(
        path,
        loader_module="mlflow.pytorch",
        data_path=str(data),
        mlflow_model=described,
        signature=ModelSignature(
            Schema([_spec(given.input_dtype, given.input_shape)]),
            Schema([_spec(given.output_dtype, given.output_shape)]),
        ),
        input_example=example,
        pip_requirements=[f"mlflow=={version('mlflow')}", f"torch=={release}"],
    )


def _add_weights(folder: Path, exported: Path) -> None:
    """What ``load_model`` reads, where an igniter.Model was exported: it loads no program."""
    if (exported / MODEL).exists():
        folder.mkdir()
        for file in (exported / MODEL, *exported.glob("*.safetensors")):
            (folder / file.name).symlink_to(file.absolute())


def _spec(dtype: str, shape: list[int]) -> TensorSpec:
    return TensorSpec(np.dtype(dtype), (-1, *shape[1:]))
