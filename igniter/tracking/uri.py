"""Where MLflow is: a tracking URI made absolute, fit to be written down and to be connected to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from igniter.errors import UsageError
from igniter.secrets import mask_uri

DEFAULT_URI = "sqlite:///mlflow.db"
_SQLITE = "sqlite:///"
_ADVICE = (
    f"Use a database such as {DEFAULT_URI} or the http(s):// address of an MLflow server "
    "(--mlflow-tracking-uri, or the variable MLFLOW_TRACKING_URI)."
)


def resolve(uri: str, directory: Path) -> str:
    """Return ``uri`` with a relative sqlite path made absolute against ``directory``.

    Raises:
        UsageError: MLflow cannot keep a run there.
    """
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise UsageError(f"MLflow no longer writes to a directory of files: {uri!r}. {_ADVICE}")
    if scheme != "sqlite":
        return uri
    name, query = _split_sqlite(uri)
    if name in ("", ":memory:"):
        raise UsageError(f"a database in memory would not outlive the run: {uri!r}. {_ADVICE}")
    return f"{_SQLITE}{directory.absolute() / name}{query}"


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


def _split_sqlite(uri: str) -> tuple[str, str]:
    name, mark, query = uri.removeprefix(_SQLITE).partition("?")
    return ("" if name == uri else name), mark + query
