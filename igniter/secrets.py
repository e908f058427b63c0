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
    | _(?!(bos|cls|end|eos|image|mask|pad|sep|special|start|stop|target|unk)_)[a-z]+_token_$
    """,
    re.VERBOSE,
)
_USER_INFO = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s]*@")
_NAMED_VALUE = re.compile(r"(?P<before>^|[?&;#\s])(?P<name>[\w.-]+)=(?P<value>[^&;#\s]+)")


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
        return [_mask_value(item) for item in value]
    return value


def mask_uri(text: str) -> str:
    """Mask what a URI carries: ``scheme://user:password@host`` and parameters like ``?token=``."""
    text = _USER_INFO.sub(rf"\g<scheme>{MASK}@", text)
    return _NAMED_VALUE.sub(
        lambda match: (
            f"{match['before']}{match['name']}={MASK}" if is_secret(match["name"]) else match[0]
        ),
        text,
    )


def mask_argv(argv: Sequence[str]) -> list[str]:
    """A command line with the values of secret flags, and secrets within URIs, masked."""
    masked: list[str] = []
    hide = False
    for token in argv:
        if token.startswith("-"):
            name, equals, _ = token.partition("=")
            hide = is_secret(name) and not equals
            masked.append(f"{name}={MASK}" if equals and is_secret(name) else mask_uri(token))
        else:
            masked.append(MASK if hide else mask_uri(token))
    return masked
