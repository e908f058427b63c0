"""Where MLflow is: a tracking URI made absolute, fit to be written down and to be connected to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

from igniter.errors import UsageError
from igniter.secrets import mask_uri

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_DATABRICKS = "databricks"
_KNOWN = {"http", "https", "sqlite", "postgresql", "mysql", "mssql", _DATABRICKS}
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/[^@]*)?$")
_ADVICE = (
    f"Use a database such as {DEFAULT_URI} or the http(s):// address of an MLflow server "
    "(--mlflow-tracking-uri, or the variable MLFLOW_TRACKING_URI)."
)


def resolve(uri: str, directory: Path) -> str:
    """Return ``uri`` with a relative sqlite path made absolute against ``directory``.

    Raises:
        UsageError: MLflow cannot keep a run there.
    """
    uri = uri.strip()
    if _HOST_AND_PORT.match(uri):
        raise UsageError(f"the tracking URI {uri!r} has no scheme; did you mean http://{uri} ?")
    try:
        scheme = urlsplit(uri).scheme
        if scheme in ("http", "https"):
            _check_server(uri)
    except ValueError as error:
        raise UsageError(f"the tracking URI cannot be read: {error}. {_ADVICE}") from error
    if uri == _DATABRICKS:
        return uri
    if scheme in ("", "file"):
        raise UsageError(
            f"MLflow no longer writes to a directory of files: {mask_uri(uri)!r}. {_ADVICE}"
        )
    if "://" not in uri:  # not shown: what comes before an "@" would be a password
        raise UsageError(f"the tracking URI has no '://' after its scheme. {_ADVICE}")
    if not _is_known(scheme):
        raise UsageError(f"MLflow knows no tracking URI that begins with {scheme}://. {_ADVICE}")
    uri = scheme + uri[len(scheme) :]
    if scheme != "sqlite":
        return uri
    name, query = _split_sqlite(uri)
    if name in ("", ":memory:"):
        raise UsageError(
            f"{mask_uri(uri)!r} names no file (three slashes come before a path, four before an "
            f"absolute one), and a database in memory would not outlive the run. {_ADVICE}"
        )
    return f"{_SQLITE}{directory.absolute() / name}{query}"


def database_uri(database: Path, like: str) -> str:
    """Return the URI of the file ``database``, with the options that the URI ``like`` has."""
    return f"{_SQLITE}{database.absolute()}{_split_sqlite(like)[1]}"


def sqlite_path(uri: str) -> Path | None:
    """Return the database file of a sqlite URI, None for any other."""
    if urlsplit(uri).scheme != "sqlite":
        return None
    return Path(_split_sqlite(uri)[0])


def with_credentials(uri: str, environ: Mapping[str, str], directory: Path) -> str:
    """Return what to connect to where ``uri`` was written down with its credentials masked.

    They are never stored: they come from ``MLFLOW_TRACKING_URI``, if that is the same place.
    """
    candidate = environ.get("MLFLOW_TRACKING_URI")
    if candidate and candidate != uri:
        candidate = resolve(candidate, directory)
        if mask_uri(candidate) == mask_uri(uri):
            return candidate
    return uri


def _check_server(uri: str) -> None:
    """Raise ValueError where no server can be at ``uri``."""
    parts = urlsplit(uri)
    if not parts.hostname:
        raise ValueError("it names no host")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port is no number up to 65535") from None


def _is_known(scheme: str) -> bool:
    # "postgresql+psycopg2" names the driver too; a plugin of MLflow's adds schemes of its own.
    if scheme.partition("+")[0] in _KNOWN:
        return True
    plugins = metadata.entry_points(group="mlflow.tracking_store")
    return any(plugin.name == scheme for plugin in plugins)


def _split_sqlite(uri: str) -> tuple[str, str]:
    name, mark, query = uri.removeprefix(_SQLITE).partition("?")
    return ("" if name == uri else name), mark + query
