"""YAML: texts as written, one clear message for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from igniter import yamlfile
from igniter.errors import UsageError


def read(tmp_path: Path, text: str) -> list[yamlfile.Setting]:
    """Read ``text`` as a settings file."""
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return yamlfile.read_settings(path)


@pytest.mark.parametrize("text", ["1e-3", "no", "on", "012", "1:30", "2026-11-21", "1_000", "0x1f"])
def test_scalars_stay_text(tmp_path: Path, text: str) -> None:
    """A scalar keeps the text written, whatever YAML would make of it."""
    assert read(tmp_path, f"key: {text}")[0].value == text
    assert read(tmp_path, f"key: [{text}, b]")[0].value == [text, "b"]


def test_null_only_where_plain(tmp_path: Path) -> None:
    """Null, a tilde and nothing mean None; a quoted null is text."""
    settings = read(tmp_path, "a: null\nb: ~\nc:\nd: 'null'\n# end\ne: []\n")
    assert [setting.value for setting in settings] == [None, None, None, "null", []]
    assert [setting.line for setting in settings] == [1, 2, 3, 4, 6]


def test_empty_file(tmp_path: Path) -> None:
    """A file of comments sets nothing."""
    assert read(tmp_path, "# nothing\n") == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\n\na: 2\n", "settings.yaml:3: 'a' is already set in line 1"),
        ("a: !!python/object/apply:os.getpid []\n", "settings.yaml:1: the tag"),
        ("b: 1\na: !!int 5\n", "settings.yaml:2: the tag"),
        ("!!map {a: 1}\n", "settings.yaml:1: the tag"),
        ("a:\n  b: 1\n", "settings.yaml:2: 'a' holds keys; keys are flags; put lists as [a, b]"),
        ("- a\n", "settings.yaml:1: 'key: value' lines are needed"),
        ("just text\n", "settings.yaml:1: 'key: value' lines are needed"),
        ("? [a, b]\n: 1\n", "settings.yaml:1: a key must be the name of a flag"),
        ("a: [1, [2]]\n", "settings.yaml:1: the list 'a' may hold plain values only"),
        ("a: [1, null]\n", "settings.yaml:1: the list 'a' may hold plain values only"),
        ("a: 1\nb: [1\n", "settings.yaml:3: not valid YAML"),
        ("a: 1\nb: c: d\n", "settings.yaml:2: not valid YAML"),
        ("a: 1\n---\nb: 2\n", "settings.yaml:2: not valid YAML"),
        ("a: \x01\n", "settings.yaml: not valid YAML"),
    ],
)
def test_refusals(tmp_path: Path, text: str, message: str) -> None:
    """Duplicates, tags, nesting and broken syntax are refused with file and line."""
    with pytest.raises(UsageError) as caught:
        read(tmp_path, text)
    assert message in str(caught.value)


def test_unreadable_file(tmp_path: Path) -> None:
    """A missing file and bytes that are no text are refused with the path."""
    with pytest.raises(UsageError, match=r"missing\.yaml"):
        yamlfile.read_settings(tmp_path / "missing.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"bytes\.yaml"):
        yamlfile.read_settings(tmp_path / "bytes.yaml")


def test_dump_and_load(tmp_path: Path) -> None:
    """What is dumped is loaded back equal, in its order and in readable characters."""
    data = {"z": 1e-05, "a": [1, None, True, "no", "012"], "ü": {"x": "2026-11-21"}}
    text = yamlfile.dump(data)
    assert text.index("z") < text.index("a:")
    assert "ü" in text
    (tmp_path / "run.yaml").write_text(text, encoding="utf-8")
    loaded = yamlfile.load(tmp_path / "run.yaml")
    assert loaded == data
    assert list(loaded) == list(data)


@pytest.mark.parametrize("garbage", [b"a: [1\n", b"\xff\xfe\xfa", b"a: !!python/name:os.system\n"])
def test_load_garbage(tmp_path: Path, garbage: bytes) -> None:
    """Garbage, and a tag that names code, are refused with the path."""
    path = tmp_path / "run.yaml"
    path.write_bytes(garbage)
    with pytest.raises(UsageError, match=r"run\.yaml"):
        yamlfile.load(path)


@pytest.mark.parametrize(
    ("value", "read_back"),
    [
        (None, None),
        ("null", "null"),
        (1e-3, "0.001"),
        (True, "true"),
        (3, "3"),
        ("012", "012"),
        ("a: b # c", "a: b # c"),
        ("two\nlines", "two\nlines"),
        ("...", "..."),
        ("x" * 200 + " y", "x" * 200 + " y"),
        ([], []),
        (["a, b", 2], ["a, b", "2"]),
    ],
)
def test_line_is_read_back(tmp_path: Path, value: Any, read_back: Any) -> None:
    """A dumped line is read back as the text of its value, even before a comment."""
    line = yamlfile.dump_line("key", value)
    assert read(tmp_path, f"{line}  # a comment\n")[0].value == read_back
