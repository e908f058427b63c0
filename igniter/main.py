"""From argv over ``main(args)`` to the exit code.

Synopsis::

    if __name__ == "__main__":
        igniter_main(main, inputs={"data": "data"})
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from igniter.args import Parser, build_parser, parse
from igniter.errors import IgniterError, Interrupted

if TYPE_CHECKING:
    import argparse


def igniter_main(
    main: Callable[[argparse.Namespace], object],
    *,
    inputs: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, Any] | None = None,
    arguments: Callable[[Parser], object] | None = None,
    description: str | None = None,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Read the command line, call ``main(args)`` and end the process with what became of it.

    Exit codes: 0 when ``main`` returns; 128+N when training was stopped by signal N; an
    :class:`IgniterError`'s own, with its text on stderr; 130 for Ctrl-C outside of training. Any
    other exception is left to the interpreter, which prints its traceback and exits with 1.

    ``inputs``, ``dependencies``, ``arguments`` and ``description`` are those of
    :func:`igniter.args.build_parser`; ``argv`` is without the program's name, ``sys.argv`` by
    default.
    """
    _open_closed_streams()
    code = 0
    try:
        parser = build_parser(
            description=description, inputs=inputs, dependencies=dependencies, arguments=arguments
        )
        args = parse(parser, argv)
        _seed(args)
        main(args)
    except Interrupted as stop:
        code = 128 + (stop.result.signal or 0)
    except IgniterError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        print("error: nobody reads the standard output any more", file=sys.stderr)
        code = 1
    finally:
        _flush_stdout()
    sys.exit(code)


def _open_closed_streams() -> None:
    """Put the null device where stdin, stdout or stderr was closed (``train.py >&- 2>&-``).

    The next file to be opened, such as the journal, would get the free descriptor, and then all
    that is written to descriptor 2: by libraries, by child processes, by signal handlers.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # open() takes the lowest free descriptor, which is this one; children inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    # Not over descriptors 1 and 2: the script may have opened files of its own on them by now.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _seed(args: argparse.Namespace) -> None:
    """Seed before ``main`` builds the model, so that each start builds the same one."""
    from igniter import rng  # imports torch, which --help and usage errors need not wait for

    rng.seed_everything(args.seed)
    if args.deterministic:
        rng.make_deterministic()


def _stdout_is_broken() -> bool:
    """Whether the reader of stdout is gone; the broken pipe may be another one."""
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _flush_stdout() -> None:
    """Flush now: at exit the interpreter would print a traceback for a reader that is gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
