"""The wheel and the sdist: built for real, looked into, and imported from a fresh process."""

from __future__ import annotations

import configparser
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from igniter._version import __version__

ROOT = Path(__file__).resolve().parents[1]
# What git ignores, and what building would leave in the checkout.
IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "output", "mlruns", "mlflow.db"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was built from that sdist."""
    place = tmp_path_factory.mktemp("packaging")
    checkout = place / "checkout"
    shutil.copytree(ROOT, checkout, ignore=IGNORED)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist")]
    done = subprocess.run(build, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return place / "dist"


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel unpacked, as in site-packages."""
    place = tmp_path_factory.mktemp("site-packages")
    (wheel,) = dist.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place)
    return place


@pytest.fixture(scope="module")
def metadata(installed: Path) -> importlib.metadata.Distribution:
    """What the wheel says of itself."""
    (found,) = importlib.metadata.distributions(path=[str(installed)])
    return found


def files_in(folder: Path) -> set[str]:
    """The files below ``folder`` that a package must hold, relative to it."""
    paths = (path for suffix in ("py", "yaml", "typed") for path in folder.rglob(f"*.{suffix}"))
    return {path.relative_to(folder).as_posix() for path in paths}


def test_the_wheel_installs_one_name(installed: Path) -> None:
    """Nothing but ``igniter`` comes to stand in site-packages: no ``cli``, no ``configs``."""
    names = {path.name for path in installed.iterdir()}
    assert names == {"igniter", f"torch_igniter-{__version__}.dist-info"}


def test_the_wheel_is_complete(installed: Path) -> None:
    """Every module, preset and the typing marker is in it, at its mapped place."""
    expected = {
        *files_in(ROOT / "igniter"),
        *(f"cli/{name}" for name in files_in(ROOT / "cli")),
        *(f"configs/{name}" for name in files_in(ROOT / "configs")),
    }
    assert {"py.typed", "cli/__init__.py", "configs/__init__.py"} <= expected
    assert files_in(installed / "igniter") == expected


def test_the_wheel_is_importable(installed: Path, tmp_path: Path) -> None:
    """Unpacked anywhere, the library, the commands and the presets are found beside each other."""
    code = f"""
import sys
sys.path.insert(0, {str(installed)!r})
import json, importlib.resources, igniter, igniter.cli, igniter.configs
presets = importlib.resources.files("igniter.configs").iterdir()
print(json.dumps({{
    "files": [igniter.__file__, igniter.cli.__file__, igniter.configs.__file__],
    "presets": sorted(preset.name for preset in presets if preset.name.endswith(".yaml")),
    "version": igniter.__version__,
}}))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    said = json.loads(done.stdout)
    assert all(Path(file).is_relative_to(installed / "igniter") for file in said["files"])
    assert said["presets"] == sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert said["version"] == __version__


def test_the_metadata(metadata: importlib.metadata.Distribution) -> None:
    """The distribution is torch-igniter, for Python 3.10 to 3.13, with the README as its page."""
    assert metadata.metadata["Name"] == "torch-igniter"
    assert metadata.version == __version__
    assert metadata.metadata["Requires-Python"] == ">=3.10"
    python = "Programming Language :: Python :: 3."
    classifiers = metadata.metadata.get_all("Classifier") or []
    versions = [text.removeprefix(python) for text in classifiers if text.startswith(python)]
    assert versions == ["10", "11", "12", "13"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert (metadata.read_text("METADATA") or "").rstrip().endswith(readme.rstrip())


def test_the_command(metadata: importlib.metadata.Distribution) -> None:
    """Installing it gives one command, ``igniter``."""
    commands = [(entry.group, entry.name, entry.value) for entry in metadata.entry_points]
    assert commands == [("console_scripts", "igniter", "igniter.cli:main")]


def test_the_sdist_can_be_tested(dist: Path) -> None:
    """The sdist holds the licence, the tests, the examples and what sets them up."""
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {
        "LICENSE",
        "Makefile",
        "README.md",
        "constraints.txt",
        "examples/digits/train.py",
        "tests/test_packaging.py",
    } <= names


def test_what_is_required_is_pinned() -> None:
    """constraints.txt pins each library that setup.cfg asks for."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    asked = setup["options"]["install_requires"] + "".join(setup["options.extras_require"].values())
    wanted = set(re.findall(r"^[\w-]+", asked, flags=re.MULTILINE))
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = set(re.findall(r"^([\w-]+)==", pins, flags=re.MULTILINE))
    assert {"torch", "pytest", "scikit-learn"} <= wanted
    assert {name.lower() for name in wanted} <= {name.lower() for name in pinned}


OTHER_PROJECT = re.compile(r"pip install (?:-\S+ )*['\"]?igniter\b")


def test_the_documents_name_the_right_distribution() -> None:
    """No page tells a person to install ``igniter``, which on PyPI is another project."""
    assert OTHER_PROJECT.search("python -m pip install -U igniter")
    assert not OTHER_PROJECT.search("pip install torch-igniter")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("examples/**/*.md")]
    assert {"README.md", "CONTRIBUTING.md"} <= {page.name for page in pages}
    for page in pages:
        assert not OTHER_PROJECT.search(page.read_text(encoding="utf-8")), page
