"""An environment of the benchmark's own: the peers as pinned, and this igniter, editable."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
REQUIREMENTS = HERE / "requirements.txt"


def prepare() -> Path:
    """The interpreter of the environment, made if it is not there yet.

    A peer that cannot be installed is named, and tried again next time; the others are measured.
    """
    directory = _directory()
    python = directory / "bin" / "python"
    complete = directory / "complete"
    if not complete.exists():
        print(f"making {directory}; remove it if this is cut short", flush=True)
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", directory], check=True)
        _install(python, "setuptools", "torch", check=True)
        _install(python, "--no-build-isolation", "--editable", str(ROOT), check=True)
        installed = [_install(python, peer, check=False) for peer in _peers()]
        if all(installed):
            complete.touch()
    return python


def _peers() -> list[str]:
    lines = [line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
    return [line for line in lines if line]


def _directory() -> Path:
    """In the user's cache; another one for other pins, another Python or another checkout."""
    key = hashlib.sha256(f"{sys.version} {ROOT}".encode())
    for path in (REQUIREMENTS, CONSTRAINTS, ROOT / "setup.cfg"):
        key.update(path.read_bytes())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "igniter-benchmarks" / f"peers-{key.hexdigest()[:12]}"


def _install(python: Path, *what: str, check: bool) -> bool:
    command = [python, "-m", "pip", "install", "--quiet", "-c", CONSTRAINTS, *what]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode and check:
        raise SystemExit(f"{' '.join(what)} cannot be installed:\n{done.stderr}")
    if done.returncode:
        print(f"{what[0]} cannot be installed: {done.stderr.strip().splitlines()[-1]}", flush=True)
    return done.returncode == 0
