"""Start Python scripts by fork from a process that has imported torch and ignite already.

Each request is a line of JSON on stdin: ``argv``, ``cwd``, ``env``, ``out`` and ``err``. The answer
is the pid, and when that process has ended, its exit status as ``subprocess`` counts it. The
process is a real one, in a group of its own, and costs a tenth of a second where a fresh
interpreter spends two on imports. Its own arguments are further modules to import.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import sys
import threading
import traceback
from pathlib import Path

import ignite.metrics  # noqa: F401
import numpy  # noqa: F401
import torch
import torch._dynamo  # what the first optimizer imports

import igniter.assembly
import igniter.main
import igniter.training  # noqa: F401

torch.set_num_threads(1)


def become(request: dict[str, object]) -> int:
    """Turn this process into the one asked for; return its exit code."""
    os.setpgid(0, 0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), number)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    return run(list(request["argv"]))


def run(argv: list[str]) -> int:
    """Run a script as an interpreter started with ``argv`` would; return its exit code."""
    sys.argv = argv
    sys.orig_argv = [sys.executable, *sys.argv]
    sys.path[0] = str(Path(sys.argv[0]).parent)
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        raise
    except BaseException:
        with contextlib.suppress(OSError):  # as the interpreter, where the terminal is gone
            traceback.print_exc()
        return 1
    return 0


def end(code: int) -> None:
    """End as an interpreter does, but for freeing every object, which takes a second."""
    threading._shutdown()
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OSError:
        code = 120  # what the interpreter makes of it
    os._exit(code)


def main() -> None:
    """Serve requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    requests = sys.stdin
    for name in sys.argv[1:]:
        importlib.import_module(name)
    gc.freeze()  # so that collecting garbage does not copy every page of the parent's
    print("ready", file=answers, flush=True)
    while line := requests.readline():
        pid = os.fork()
        if pid == 0:
            answers.close()
            end(become(json.loads(line)))
        print(pid, file=answers, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), file=answers, flush=True)


if __name__ == "__main__":
    main()
