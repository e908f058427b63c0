"""How mlflow goes about its requests: told through the environment, before it is imported."""

from __future__ import annotations

import os

TIMEOUT_SECONDS = 10
LONGEST_TIMEOUT_SECONDS = 60

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # A connection that is kept open would write to a database's file after that was removed.
    "MLFLOW_SQLALCHEMYSTORE_POOLCLASS": "NullPool",
}
# mlflow tries again by itself and would not notice that a run was made before the answer was lost:
# there would be two. It would also wait 247 s for a server that is down.
NO_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"


def prepare(timeout: int) -> None:
    """Have each request of this process tried once, for ``timeout`` seconds or as set, if longer.

    mlflow reads the environment at each request.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(NO_RETRIES)
    given = os.environ.get(_TIMEOUT, "")
    os.environ[_TIMEOUT] = str(max(timeout, int(given) if given.isdecimal() else 0))
