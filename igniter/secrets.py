"""What must never be written down, masked: passwords, tokens and keys."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

MASK = "***"

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+")
# Searched in the words of a name, joined and enclosed by "_". A token is a secret as the last
# word; but "pad_token" and its like are text that a language model is trained with, and masking
# them would take an argument that shapes the result out of the identity.
_SECRET = re.compile(
    r"""
    _(passwords?|passwd|passphrase|secrets?|credentials?|apikeys?)_
    | _(api|access|private)_keys?_
    | ^_token_$
    | ^_mlflow_tracking_username_$
    | _(?!(bos|cls|end|eos|image|mask|pad|sep|special|start|stop|target|unk)_)[a-z]+_token_$
    """,
    re.VERBOSE,
)
# A password may hold "/" (database drivers take it); "host:8080/…@" is a port and a path.
_USER_INFO = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,30}://)(?:[^/\s]*|[^:/\s]*:(?!\d+/)[^\s@]*)@"
)
# What signs a URI for whoever holds it: of S3, Google and Azure. A setting may be called so too.
_SIGNATURE = re.compile(r"(x-(amz|goog)-)?signature|sig", re.IGNORECASE)
# name=value in a URI, a connection string or an object's repr; "name": value in JSON or a dict's
# repr. The quotes are escaped in JSON within JSON. Prose ("the password: it is …") is neither.
_NAME = re.compile(
    r"""
    (?:
        (?<![\w./-])(?P<name>[\w.-]+)=
        | (?P<quote>\\*["'])(?P<key>[\w. -]+)(?P=quote)\s*:\s*
    )
    (?!(?:None|null)\b|[&;\#\s,)\]}]|$)
    """,
    re.VERBOSE,
)
# Where it is not closed, or closed by what looks escaped, it goes on: better than to show a part.
_QUOTED = re.compile(r"""[bru]{0,2}(?P<quote>\\*["']).*?(?<!\\)(?:(?P=quote)|$)""", re.DOTALL)
_END = re.compile(r"""[&;\#\s]|,(?=["'])|[)\]}>,"']+(?=\s|$)""")
_FLAG = re.compile(r"(?P<name>-{1,2}(?:[A-Za-z_][\w.-]*)?)(?P<equals>$|=)")


def is_secret(name: str) -> bool:
    """Whether an argument of this name (snake, kebab or camel case) holds a secret.

    A token is one when it is the last word (``api_token``), not as a number (``token_count``)
    or as text for a language model (``pad_token``).
    """
    words = "_".join(word.lower() for word in _WORD.findall(name))
    return _SECRET.search(f"_{words}_") is not None


def mask_mapping(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which the value of each secret name, at any depth, is masked; None stays."""
    return {
        name: MASK if value is not None and is_secret(str(name)) else _mask_value(value)
        for name, value in values.items()
    }


def _mask_value(value: Any) -> Any:
    if isinstance(value, str):
        return mask_uri(value)
    if isinstance(value, Mapping):
        return mask_mapping(value)
    if isinstance(value, (list, tuple)):
        return _mask_items(value)
    return value


def mask_uri(text: str) -> str:
    """Mask what a text carries: ``scheme://user:password@host``, ``?token=…`` in a URI.

    So too the values of secret names in a connection string, an object's repr and JSON.
    """
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    parts: list[str] = []
    done = 0
    while match := _NAME.search(text, done):
        parts.append(text[done : match.end()])
        done = match.end()
        name = match["name"] or match["key"]
        signs = text[: match.start()].endswith(("?", "&")) and _SIGNATURE.fullmatch(name)
        if signs or is_secret(name):
            quoted = _QUOTED.match(text, done)
            parts.append(f"{quoted['quote']}{MASK}{quoted['quote']}" if quoted else MASK)
            done = quoted.end() if quoted else _value_end(text, done)
    return "".join([*parts, text[done:]])


def _value_end(text: str, start: int) -> int:
    """Where a value without quotes ends: brackets in it, such as ``Login(user='u')``, are whole."""
    depth = 0
    position = start
    while position < len(text):
        if depth and (quoted := _QUOTED.match(text, position)):
            position = quoted.end()
            continue
        if not depth and _END.match(text, position):
            break
        depth = max(0, depth + (text[position] in "([{") - (text[position] in ")]}"))
        position += 1
    return position


def mask_argv(argv: Sequence[str]) -> list[str]:
    """A command line with the values of secret flags, and secrets within texts, masked."""
    return _mask_items(argv)


def _mask_items(items: Sequence[Any]) -> list[Any]:
    """The items masked, and all that follow a secret flag up to the next flag; None stays."""
    masked: list[Any] = []
    hide = False
    for item in items:
        flag = _FLAG.match(item) if isinstance(item, str) else None
        if flag is not None:
            secret = is_secret(flag["name"])
            hide = secret and not flag["equals"]
            masked.append(f"{flag[0]}{MASK}" if secret and flag["equals"] else mask_uri(item))
        else:
            masked.append(MASK if hide and item is not None else _mask_value(item))
    return masked
