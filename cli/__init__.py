"""The ``igniter`` command.

Synopsis: ``igniter runs``, ``igniter show RUN``, ``igniter ui``, ``igniter sync``,
``igniter verify SCRIPT``.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from igniter._version import __version__
from igniter.errors import IgniterError

from . import runs, show, sync, ui, verify

_EXAMPLES = """\
examples:
  igniter runs                          what was trained here, and how far it got
  igniter show output/train-1a2b3c4d    all of one run, and the command that resumes it
  igniter ui                            MLflow's pages for these runs, in a browser
  igniter sync output                   send to MLflow what it lacks, after an outage
  igniter verify train.py               does it end the same when it is stopped on the way?
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="igniter",
        description="See and look after training runs made with igniter.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"torch-igniter {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (runs, show, ui, sync, verify):
        command.add_parser(subparsers)
    args = parser.parse_args(argv)
    try:
        code: int = args.run(args)
        sys.stdout.flush()
    except IgniterError as error:
        print(f"igniter: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader (head, less) has seen enough. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code
