"""How sending to MLflow can fail, and what an error of the network or a database is in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from igniter.secrets import MASK, mask_uri


class Unavailable(Exception):
    """MLflow did not take it now; the same may be sent again later."""


class Refused(Exception):
    """MLflow will never take this as it is."""


class RunGone(Exception):
    """The MLflow run ``run_id`` was deleted."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"the MLflow run {run_id} was deleted")
        self.run_id = run_id


_STATUS = re.compile(r"(?:error code |many )(?P<status>\d{3})\b")
_CREDENTIALS = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
_ANSWERS = {
    "401": f"asks for a user name and password: {_CREDENTIALS}",
    "403": f"does not let this user in: {_CREDENTIALS}",
    "404": "has no MLflow there: is the address right?",
    "429": "answers 429: it has too much to do",
}
_LONGEST = 500


def in_words(uri: str, error: BaseException) -> str:
    """Return why the store at ``uri`` could not be used, on one line and without credentials."""
    if not uri.startswith(("http:", "https:")):
        return first_line(f"MLflow's store cannot be used: {_text(error)}")
    where = mask_uri(uri).replace(f"{MASK}@", "")
    causes = list(_causes(error))
    texts = " ".join(_text(cause) for cause in causes)
    status = _STATUS.search(texts)
    if status is not None:
        how = _ANSWERS.get(status["status"], f"answers {status['status']}")
    elif any(isinstance(cause, TimeoutError) or "timed out" in str(cause) for cause in causes):
        how = "does not answer in time"
    elif "valid JSON" in texts:
        how = "gives answers that are not MLflow's: is the address right?"
    else:
        system = [each for each in causes if isinstance(each, OSError) and _is_plain(each)]
        how = f"cannot be reached: {_text(system[-1]) if system else _text(error)}"
    return first_line(f"the MLflow server at {where} {how}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and all that it came from, raised from it or kept in it as an argument."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        each = waiting.pop(0)
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__, getattr(each, "reason", None), *each.args]


def _is_plain(error: OSError) -> bool:
    """Whether it is the operating system's, or says as simply what happened."""
    return error.strerror is not None or isinstance(error, ConnectionError)


def _text(error: BaseException) -> str:
    words = error.strerror if isinstance(error, OSError) else None
    return words or str(error) or type(error).__name__


def first_line(text: str) -> str:
    """Return the first line of a message without credentials, cut where it is very long."""
    line = mask_uri(text.strip().partition("\n")[0])
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
