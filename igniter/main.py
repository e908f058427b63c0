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
from igniter.errors import IgniterError, Interrupted, UsageError
from igniter.flags import VERIFY_RESUME
from igniter.outputs import flush_or_drop

if TYPE_CHECKING:
    import argparse
import atexit


def igniter_main(
    main: Callable[[argparse.Namespace], object],
    *,
    inputs: Mapping[str, Any] | None = None,
    dependencies: Mapping[str, Any] | None = None,
    arguments: Callable[[Parser], object] | None = None,
    description: str | None = None,
    subcommands: bool = False,
    argv: Sequence[str] | None = None,
) -> NoReturn:
    """Read the command line, call ``main(args)`` and end the process with what became of it.

    Exit codes: 0 when ``main`` returns; 128+N when training was stopped by signal N; an
    :class:`IgniterError`'s own, with its text on stderr; 130 for Ctrl-C outside of training. Any
    other exception is left to the interpreter, which prints its traceback and exits with 1.

    ``inputs``, ``dependencies``, ``arguments`` and ``description`` are those of
    :func:`igniter.args.build_parser`. With ``subcommands`` the command line must hold ``train``,
    ``eval`` or ``train-and-eval``, which is ``args.subcommand``. ``argv`` is without the program's
    name, ``sys.argv`` by default.
    """
    _open_closed_streams()
    atexit.register(flush_or_drop)  # after the traceback of an error of the script's own
    code = 0
    try:
        parser = build_parser(
            description=description,
            inputs=inputs,
            dependencies=dependencies,
            arguments=arguments,
            with_subcommands=subcommands,
        )
        args = parse(parser, argv)
        if "verify_resume" in args:
            code = _verify()
        else:
            _seed(args)
            main(args)
    except Interrupted as stop:
        code = 128 + (stop.result.signal or 0)
    except IgniterError as error:
        _tell(f"error: {error}")
        code = error.exit_code
    except KeyboardInterrupt:
        _tell("interrupted")
        code = 130
    except BrokenPipeError:
        if not _stdout_is_broken():
            raise
        _tell("error: nobody reads the standard output any more")
        code = 1
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


def _verify() -> int:
    """Verify the command that started this process, without the flag; return the exit code."""
    from igniter.provenance import without
    from igniter.verify import driver

    command = without(sys.orig_argv[1:], valued=(), switches=(VERIFY_RESUME,))
    if command == sys.orig_argv[1:]:
        raise UsageError(
            f"{VERIFY_RESUME} starts this process's own command again, which does not hold it; "
            "give it on the command line"
        )
    equal = driver.verify([sys.executable, *command], driver.Options(seed=driver.drawn_seed()))
    return 0 if equal else 1


def _seed(args: argparse.Namespace) -> None:
    """Seed before ``main`` builds the model, so that each start builds the same one."""
    from igniter import rng  # imports torch, which --help and usage errors need not wait for

    rng.seed_everything(args.seed)
    if args.deterministic:
        rng.make_deterministic()


def _tell(text: str) -> None:
    """Print to stderr if that can be written to; the exit code holds all the same."""
    try:
        print(text, file=sys.stderr)
    except OSError:
        pass


def _stdout_is_broken() -> bool:
    """Whether the reader of stdout is gone; the broken pipe may be another one."""
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))
