"""``igniter ui``: MLflow's pages for the runs made here."""

from __future__ import annotations

import argparse
import errno
import os
import socket
import sys
from pathlib import Path
from typing import NoReturn

from igniter.errors import UsageError
from igniter.secrets import mask_uri
from igniter.tracking.uri import DEFAULT_URI, resolve, sqlite_path

# MLflow's default server runs 15 processes in 2.3 GB; this way it is 2 in 0.4 GB.
_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    # Its tasks at start and end are for MLflow's assistant, and Ctrl-C would show their traceback.
    "UVICORN_LIFESPAN": "off",
}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of ``igniter``."""
    parser = subparsers.add_parser(
        "ui",
        help="serve MLflow's pages for these runs",
        description="Serve MLflow's pages for these runs until stopped with Ctrl-C.",
        epilog="examples:\n  igniter ui\n"
        "  igniter ui --port 5001 --tracking-uri sqlite:////data/mlflow.db\n"
        "  igniter ui -- --host 0.0.0.0        (what follows -- goes to `mlflow server`)",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--tracking-uri",
        metavar="URI",
        help=f"the database to show (default: MLFLOW_TRACKING_URI, or else {DEFAULT_URI})",
    )
    parser.add_argument(
        "--port", type=int, default=5000, help="port to serve on (default: %(default)s)"
    )
    parser.add_argument("extra", nargs="*", metavar="-- OPTION", help="options of `mlflow server`")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Become the MLflow server. Returns only where there is nothing to serve."""
    uri = args.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    if uri.startswith(("http://", "https://")):
        print(f"a server is at work there already: open {uri} in a browser")
        return 0
    uri = resolve(uri, Path.cwd())
    database = sqlite_path(uri)
    if database is not None and not database.is_file():
        raise UsageError(
            f"there is no MLflow database {database}. It is made by the first run trained in its "
            "directory; go there, or give --tracking-uri"
        )
    _check_free(args.port)
    return _become_server(uri, args)


def _check_free(port: int) -> None:
    """Refuse a port that cannot be served on, which the server would say late and at length."""
    with socket.socket() as probe:
        # As the server does: connections that ended a moment ago do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OverflowError:
            raise UsageError(f"there is no port {port}; they go from 0 to 65535") from None
        except OSError as error:
            in_use = error.errno == errno.EADDRINUSE
            why = "is in use" if in_use else f"cannot be used: {error.strerror}"
            raise UsageError(f"port {port} {why}; choose another with --port") from error


def _become_server(uri: str, args: argparse.Namespace) -> NoReturn:
    # In the environment and not as an option: a password in it must not show in `ps`.
    environ = {**_ENVIRONMENT, **os.environ, "MLFLOW_BACKEND_STORE_URI": uri}
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(args.port)]
    command += ["--workers", "1", *args.extra]
    print(f"http://127.0.0.1:{args.port} shows {mask_uri(uri)}; Ctrl-C stops it", flush=True)
    os.execve(sys.executable, command, environ)
