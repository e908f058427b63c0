"""The order of the house: layers, one room for each library, short modules, light imports.

The layers are those of the table in DESIGN.md.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAX_LINES = 250

# Where each library, and each part of the standard library that has one owner, may be imported.
ROOMS = {
    "argparse": {
        "args",
        "argument_types",
        "cli",
        "flags",
        "help_text",
        "main",
        "options",
        "subcommands",
    },
    "fcntl": {"lock", "tracking.mlflow_store", "tracking.sync"},
    "ignite": {"ignite_import"},
    "matplotlib": {"tracking.panel", "tracking.picture"},
    "mlflow": {
        "tracking.downloads",
        "tracking.mlflow_run",
        "tracking.mlflow_store",
        "tracking.model",
        "tracking.system_metrics",
    },
    "numpy": {
        "checkpoint.forms",
        "checkpoint.portable",
        "closures",
        "figures",
        "mixing",
        "order",
        "rng",
        "tracking.model",
        "twister",
        "verify.fingerprints",
    },
    "onnxruntime": {"onnx_export"},
    "optuna": {"search", "studies", "study_files", "trials"},
    "pandas": {"journal"},
    "PIL": {"figures"},
    "safetensors": {"export"},
    "signal": {"signals"},
    "torch": {
        "average",
        "checkpoint.buffers",
        "checkpoint.compare",
        "checkpoint.files",
        "checkpoint.forms",
        "checkpoint.gradients",
        "checkpoint.groups",
        "checkpoint.keys",
        "checkpoint.modes",
        "checkpoint.numbers",
        "checkpoint.portable",
        "checkpoint.state",
        "checks",
        "closures",
        "dataloaders",
        "devices",
        "engine",
        "evaluation",
        "examples",
        "export",
        "handlers.averaging",
        "handlers.ema",
        "handlers.freezer",
        "handlers.learning_rate",
        "handlers.mixup",
        "handlers.nan_guard",
        "handlers.profiler",
        "handlers.swa",
        "handlers.sync_batch_norm",
        "holdings",
        "library_metrics",
        "loader",
        "measure",
        "metrics",
        "onnx_export",
        "models.loading",
        "models.base",
        "models.parts",
        "models.running",
        "models.saved",
        "models.steps",
        "models.unsaved",
        "program",
        "protocols",
        "rng",
        "sampling",
        "sources",
        "schedulers",
        "schedules",
        "steps",
        "streams",
        "tracing",
        "warmup",
        "updates",
        "watch",
        "verify.fingerprints",
        "workers",
    },
    "tensorboard": {"tracking.board"},
    "tqdm": {"tracking.display"},
    "xxhash": {"checkpoint.sums"},
    "yaml": {"yamlfile"},
}


def modules(folder: str, package: str) -> dict[str, Path]:
    """Every module's full name with its file."""
    found = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        parts = path.relative_to(ROOT / folder).with_suffix("").parts
        found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


LIBRARY = modules("igniter", "igniter")
CLI = modules("cli", "igniter.cli")
ALL = {**LIBRARY, **CLI}


def imports_in(source: str) -> Iterator[tuple[int, str]]:
    """The line and the full name of everything imported anywhere in ``source``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"


@cache
def imports(module: str) -> list[tuple[int, str]]:
    """:func:`imports_in` a module."""
    return list(imports_in(ALL[module].read_text(encoding="utf-8")))


def home_of(name: str) -> str:
    """The module of igniter that the imported ``name`` is, or is taken from."""
    return name if name in LIBRARY else name.rpartition(".")[0]


def room_of(module: str) -> str:
    """``igniter.tracking.display`` as ``tracking.display``; every command is ``cli``."""
    return "cli" if module in CLI else module.removeprefix("igniter.")


def layers(page: str) -> dict[str, int]:
    """The layer of each module, from the rows ``| 2 | `loader`, `order` | … |``."""
    table: dict[str, int] = {}
    for layer, names in re.findall(r"^\| (\d+) \| ([^|]*)", page, flags=re.MULTILINE):
        for name in re.findall(r"`([\w/]+)`", names):
            module = "igniter" if name == "__init__" else "igniter." + name.replace("/", ".")
            assert module not in table, f"{name} is in the table twice"
            table[module] = int(layer)
    return table


LAYERS = layers((ROOT / "DESIGN.md").read_text(encoding="utf-8"))


def upward_imports(module: str, found: list[tuple[int, str]]) -> list[str]:
    """What ``module`` imports from its own layer or a higher one."""
    return [
        f"{module}:{line} (layer {LAYERS[module]}) imports {name} (layer {LAYERS[home_of(name)]})"
        for line, name in found
        if home_of(name) in LAYERS and LAYERS[home_of(name)] >= LAYERS[module]
    ]


def strangers(room: str, found: list[tuple[int, str]]) -> list[str]:
    """The libraries that ``room`` imports and ROOMS does not let it."""
    wrong = []
    for line, name in found:
        library = name.partition(".")[0]
        if library in ROOMS:
            allowed = room in ROOMS[library]
        else:
            allowed = library in ("", "igniter") or library in sys.stdlib_module_names
        if not allowed:
            wrong.append(f"{room}:{line} imports {library}")
    return wrong


def test_every_module_is_in_the_table() -> None:
    """DESIGN.md gives each module of the library a layer, and names none that is not there."""
    packages = {name for name, path in LIBRARY.items() if path.name == "__init__.py"}
    missing = set(LIBRARY) - set(LAYERS) - packages
    assert not missing, f"add to the table of layers in DESIGN.md: {sorted(missing)}"
    gone = set(LAYERS) - set(LIBRARY)
    assert not gone, f"take out of the table of layers in DESIGN.md: {sorted(gone)}"


def test_imports_point_downwards() -> None:
    """A module imports from lower layers only, inside functions and for type checking too."""
    known = LIBRARY.keys() & LAYERS.keys()
    assert not [line for module in known for line in upward_imports(module, imports(module))]


def test_an_upward_import_is_seen() -> None:
    """The check finds an import from a higher and from the same layer, wherever it stands."""
    source = "def f():\n    from igniter.training import train\nfrom igniter import lock, errors"
    found = upward_imports("igniter.lock", list(imports_in(source)))
    assert {line.partition(" ")[0] for line in found} == {"igniter.lock:2", "igniter.lock:3"}


def test_packages_are_empty() -> None:
    """A package's ``__init__`` imports nothing, so it needs no layer, but for the two facades."""
    packages = [name for name, path in LIBRARY.items() if path.name == "__init__.py"]
    assert [name for name in packages if imports(name)] == ["igniter", "igniter.handlers"]


def test_nobody_inside_imports_the_facade() -> None:
    """Inside the package a name is imported from the module it is defined in."""
    facade = [
        f"{module}:{line} imports {name}"
        for module in ALL
        for line, name in imports(module)
        if name == "igniter" or (name not in ALL and home_of(name) == "igniter")
    ]
    assert not facade


def test_the_library_imports_itself_absolutely_and_no_command() -> None:
    """Nothing below igniter/ imports igniter.cli, which is installed from another directory."""
    wrong = [
        f"{module}:{line} imports {name}"
        for module in LIBRARY
        for line, name in imports(module)
        if name.startswith((".", "igniter.cli"))
    ]
    assert not wrong


def test_commands_import_their_siblings_relatively() -> None:
    """Inside cli/ a sibling is imported as ``.text``: the directory has another name installed."""
    wrong = [
        f"{module}:{line} imports {name}"
        for module in CLI
        for line, name in imports(module)
        if name.startswith(("igniter.cli", "cli"))
    ]
    assert not wrong


def test_one_library_one_room() -> None:
    """A library is imported where ROOMS says; one that ROOMS does not name, nowhere."""
    assert not [line for module in ALL for line in strangers(room_of(module), imports(module))]


def test_a_stranger_is_seen() -> None:
    """The check finds a library outside of its room, and one that has none."""
    source = "import json\nimport mlflow.entities\nfrom torch import nn\nimport requests"
    found = strangers("engine", list(imports_in(source)))
    assert found == ["engine:2 imports mlflow", "engine:4 imports requests"]


def test_no_room_is_left_open() -> None:
    """ROOMS names no module that does not import the library."""
    users: dict[str, set[str]] = {library: set() for library in ROOMS}
    for module in ALL:
        for _, name in imports(module):
            users.setdefault(name.partition(".")[0], set()).add(room_of(module))
    assert {library: users[library] for library in ROOMS} == ROOMS


def test_modules_are_short() -> None:
    """A module of more than 250 lines has a second concern."""
    lines = {name: len(path.read_text("utf-8").splitlines()) for name, path in ALL.items()}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}


HEAVY = {"torch", "ignite", "mlflow", "numpy"}


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import igniter", set()),
        ("from igniter import RunSpec, train, evaluate, igniter_main", set()),
        ("import igniter.args, igniter.main", set()),
        ("import igniter.cli", set()),
        ("import igniter.rng", {"torch", "numpy"}),
    ],
)
def test_imports_are_light(statement: str, loaded: set[str], tmp_path: Path) -> None:
    """A script's --help and usage errors do not wait for the heavy libraries."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert set(done.stdout.split()) & HEAVY == loaded
