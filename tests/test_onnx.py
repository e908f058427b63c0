"""A trained module as a file of ONNX and as a torch program, each checked against the module."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import Small
from torch import nn

from igniter import onnx_export, tracing
from igniter.errors import ExportFailed, UsageError
from igniter.onnx_export import export_onnx, save_onnx
from igniter.program import export_programs
from igniter.tracing import check, trace

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Net(nn.Module):
    """A convolution with what behaves otherwise in training."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Dropout(), nn.Flatten()
        )
        self.out = nn.Linear(32, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Three scores an image."""
        return self.out(self.layers(images))


class Several(nn.Module):
    """Takes two tensors, one of them integers, and gives several."""

    def forward(self, x: torch.Tensor, index: torch.Tensor) -> dict[str, Any]:
        """A number, an integer and a pair."""
        return {"sum": x + index.unsqueeze(1), "best": x.argmax(1), "pair": (x, -x)}


class Branch(nn.Module):
    """Does what its input's values say, which no graph can."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Either."""
        return x if x.sum() > 0 else -x


class Drawn(nn.Module):
    """Draws at random also in eval mode."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """With noise."""
        return x + torch.rand_like(x)


def run(path: Path, *given: torch.Tensor) -> list[np.ndarray[Any, Any]]:
    """What onnxruntime makes of the file."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    return session.run(None, {n: t.numpy() for n, t in zip(names, given, strict=True)})


def test_any_number_of_samples(tmp_path: Path) -> None:
    """The file gives what the module gives in eval mode, for any number of samples."""
    module = Net()
    for _ in range(3):
        module(torch.rand(4, 1, 6, 6))  # its batch norm has seen something
    path = tmp_path / "deep" / "net.onnx"
    export_onnx(path, module, torch.rand(2, 1, 6, 6))
    assert module.training
    module.eval()
    for samples in (1, 3, 8):
        images = torch.rand(samples, 1, 6, 6)
        (found,) = run(path, images)
        assert np.allclose(found, module(images).detach().numpy(), atol=1e-6)
        other = Net().eval()(images).detach().numpy()
        assert not np.allclose(found, other, atol=1e-6)
    assert [file.name for file in path.parent.iterdir()] == ["net.onnx"]


def test_several_tensors(tmp_path: Path) -> None:
    """Several inputs and outputs, integers among them, keep their order."""
    path = tmp_path / "s.onnx"
    export_onnx(path, Several(), [torch.rand(2, 3), torch.tensor([1, 2])])
    x, index = torch.rand(4, 3), torch.arange(4)
    found = run(path, x, index)
    expected = [x + index.unsqueeze(1), x.argmax(1), x, -x]
    assert [torch.from_numpy(each).dtype for each in found] == [each.dtype for each in expected]
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(found, expected, strict=True))


def test_one_sample_as_example(tmp_path: Path) -> None:
    """An example of one sample still gives a file for any number, in the module's precision."""
    module = nn.Linear(3, 2).double()
    export_onnx(tmp_path / "m.onnx", module, torch.rand(1, 3).double())
    points = torch.rand(4, 3).double()
    (found,) = run(tmp_path / "m.onnx", points)
    assert found.dtype == np.float64
    assert np.allclose(found, module(points).detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("module", [Branch(), Drawn()])
def test_what_cannot_be_exported(module: nn.Module, tmp_path: Path) -> None:
    """It fails loudly, and an earlier file stands as it was."""
    path = tmp_path / "m.onnx"
    path.write_bytes(b"before")
    with pytest.raises(ExportFailed, match=r"m\.onnx was not written, the module cannot be"):
        export_onnx(path, module, torch.rand(2, 3))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_other_results_are_seen(tmp_path: Path) -> None:
    """Negative control: a weight that is off in the file is found, and no file is written."""
    traced = trace(nn.Linear(3, 2), (torch.rand(2, 3),))
    other = dataclasses.replace(traced, module=copy.deepcopy(traced.module))
    with torch.no_grad():
        other.module.weight[0, 0] += 0.01  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"called with 1 samples it is up to .* is allowed"):
        save_onnx(tmp_path / "m.onnx", other)
    assert not list(tmp_path.iterdir())
    save_onnx(tmp_path / "m.onnx", other, tolerance=1.0)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("give", "words"),
    [
        (lambda x: x + 1e-6, None),
        (lambda x: x + 1e-3, "is up to 0.001 from what the module gives"),
        (lambda x: x.double(), "gives torch.float64 of shape"),
        (lambda x: x[:1], r"called with 2 samples it gives torch.float32 of shape \(1, 3\)"),
        (lambda x: (x, x), "gives 2 results and the module 1"),
        (lambda x: x * torch.nan, "from what the module gives"),
        (lambda x: (x > 0).float() * x, None),
    ],
)
def test_comparison(give: Any, words: str | None) -> None:
    """What differs by more than the tolerance, in shape, type or number is told with the values."""
    traced = trace(nn.Identity(), (torch.rand(2, 3) + 0.5,))
    if words is None:
        check(traced, give)
    else:
        with pytest.raises(ValueError, match=words):
            check(traced, give)


def test_whole_numbers_are_exact() -> None:
    """Of integers no tolerance is spoken of."""
    traced = trace(nn.Flatten(), (torch.tensor([[1, 2], [3, 4]]),))
    check(traced, lambda x: x)
    with pytest.raises(ValueError, match="gives other whole numbers"):
        check(traced, lambda x: x + 1)


def test_missing_extra_is_said_at_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnxruntime a run with ``--export onnx`` is refused before its first step."""
    monkeypatch.setattr(onnx_export, "_NEEDED", ("onnx", "no_such_runtime"))

    def step(*_: Any) -> Any:
        raise AssertionError("trained")

    with pytest.raises(UsageError, match=r"needs no_such_runtime.* 'torch-igniter\[onnx"):
        Small(tmp_path / "run", step=step).train(export=["onnx"])
    with pytest.raises(UsageError, match="needs no_such_runtime"):
        export_onnx(tmp_path / "m.onnx", nn.Identity(), torch.rand(2, 2))
    Small(tmp_path / "other").train(export=["torch"], max_iterations=1)


def test_export_of_a_run(tmp_path: Path) -> None:
    """A run that was stopped exports the trained model in the end, in every format asked for."""
    small = Small(tmp_path / "run")
    small.train(export=["torch", "onnx"], stop_at=5)
    model_dir = tmp_path / "run" / "model"
    assert not list(model_dir.iterdir())
    assert small.train(export=["torch", "onnx"]).status == "completed"
    names = {file.name for file in model_dir.iterdir()}
    assert names == {"model.safetensors", "parameters.yaml", "model.pt2", "model.onnx"}
    points = torch.rand(7, 2)
    expected = small.model(points).detach()
    assert np.allclose(run(model_dir / "model.onnx", points)[0], expected.numpy(), atol=1e-6)
    with tracing.quiet():
        program = torch.export.load(model_dir / "model.pt2").module()
    assert torch.equal(program(points), expected)


def test_nothing_is_exported_unasked(tmp_path: Path) -> None:
    """Without ``--export`` and without MLflow there are the weights alone."""
    Small(tmp_path / "run").train()
    names = {file.name for file in (tmp_path / "run" / "model").iterdir()}
    assert names == {"model.safetensors", "parameters.yaml"}


def test_run_whose_model_cannot_be_exported(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """It completes all the same, with a warning; its weights are there."""

    def step(engine: Any, batch: Any, model: Any, optimizer: Any) -> Any:
        torch.manual_seed(0)  # looks at the model's own call below
        return {"loss": model(batch[0]).square().mean()}

    small = Small(tmp_path / "run", step=step)
    forward = nn.Linear.forward

    def branching(self: Any, x: torch.Tensor) -> torch.Tensor:
        return forward(self, x) if x.sum() > 0 else -forward(self, x)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Linear, "forward", branching)
        assert small.train(export=["onnx", "torch"]).status == "completed"
    said = capfd.readouterr().err
    assert "warning: model was not exported: " in said
    assert "Its weights are in" in said
    names = {file.name for file in (tmp_path / "run" / "model").iterdir()}
    assert names == {"model.safetensors", "parameters.yaml"}


def test_program_of_torch_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``.pt2`` that gives other results than the module is not left standing."""
    load = torch.export.load

    class Off:
        def __init__(self, file: Any) -> None:
            self._program = load(file).module()

        def module(self) -> Any:
            return lambda x: self._program(x) + 1

    found = {"model": torch.rand(2, 2)}
    modules = {"model": nn.Linear(2, 1)}
    assert export_programs(tmp_path, modules, found, 1) == {}
    monkeypatch.setattr(torch.export, "load", Off)
    problems = export_programs(tmp_path, modules, found, 2)
    assert problems["model"].startswith("as torch: called with 1 samples it is up to ")
    assert not list(tmp_path.iterdir())


def test_random_module_as_torch_program(tmp_path: Path) -> None:
    """A module that draws is checked on the same draws: its torch program stands."""
    assert export_programs(tmp_path, {"m": Drawn()}, {"m": torch.rand(2, 2)}, 1) == {}
    problems = export_programs(tmp_path, {"m": Drawn()}, {"m": torch.rand(2, 2)}, 1, ["onnx"])
    assert problems["m"].startswith("as onnx: ")


def test_one_format_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one stands."""
    full = OSError(28, "No space left on device")

    def refuse(*_: Any) -> None:
        raise full

    monkeypatch.setattr("igniter.program.save_onnx", refuse)
    found = {"m": torch.rand(2, 2)}
    problems = export_programs(tmp_path, {"m": nn.Linear(2, 1)}, found, 1, ["onnx", "torch"])
    assert problems == {"m": "as onnx: [Errno 28] No space left on device"}
    assert (tmp_path / "m.pt2").exists()


def test_names_of_formats() -> None:
    """Unknown formats are refused with those there are."""
    from igniter.argument_types import export_names
    from igniter.settings import Settings

    assert export_names("ONNX, torch,onnx") == "onnx,torch"
    assert export_names("none") == "none"
    with pytest.raises(Exception, match="'tflite' is not one of torch, onnx"):
        export_names("torch,tflite")
    with pytest.raises(UsageError, match="export is 'tflite'; it must be torch or onnx"):
        Settings(export=["tflite"])
    with pytest.raises(UsageError, match="export is 'onnx'; it must be a list"):
        Settings(export="onnx")


def test_stop_in_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that comes while the file is made loses nothing: the run is complete."""

    def save(path: Path, *_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("igniter.program.save_onnx", save)
    small = Small(tmp_path / "run")
    assert small.train(export=["onnx"]).status == "completed"
    assert small.train(export=["onnx"]).status == "completed"
