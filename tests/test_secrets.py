"""Secrets: recognised by name, masked in mappings, URIs and command lines."""

from __future__ import annotations

import pytest

from igniter.secrets import is_secret, mask_argv, mask_mapping, mask_uri


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "db-passwd",
        "MLFLOW_TRACKING_PASSWORD",
        "token",
        "api_token",
        "hfToken",
        "clientSecret",
        "AWS_SECRET_ACCESS_KEY",
        "aws_access_key_id",
        "apikey",
        "api-key",
        "APIKey",
        "private_key",
        "credentials",
        "service_credential_file",
    ],
)
def test_secret_names(name: str) -> None:
    """A name with the word for a secret, in any spelling, is one."""
    assert is_secret(name)


@pytest.mark.parametrize(
    "name",
    [
        "tokenizer",
        "max_tokens",
        "token_count",
        "num_tokens",
        "pad_token",
        "eosToken",
        "key",
        "keep_every",
        "secretary",
        "learning_rate",
        "",
    ],
)
def test_other_names(name: str) -> None:
    """A name that only resembles one is not: its value shapes the result and must be seen."""
    assert not is_secret(name)


def test_mapping() -> None:
    """Secret values are masked at any depth, None and the rest stay, the original too."""
    values = {
        "password": "hunter2",
        "token": None,
        "lr": 0.1,
        "db": {"api_key": 5, "uri": "postgres://u:hunter2@h/db"},
        "list": ["https://hunter2@h/x", 1],
    }
    assert mask_mapping(values) == {
        "password": "***",
        "token": None,
        "lr": 0.1,
        "db": {"api_key": "***", "uri": "postgres://***@h/db"},
        "list": ["https://***@h/x", 1],
    }
    assert values["password"] == "hunter2"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("https://user:hunter2@host:5000/x", "https://***@host:5000/x"),
        ("https://user:hun@ter2@host", "https://***@host"),
        ("git+https://hunter2@github.com/a/b", "git+https://***@github.com/a/b"),
        ("https://h/x?a=1&token=hunter2&b=2#c", "https://h/x?a=1&token=***&b=2#c"),
        ("https://h/x#access_token=hunter2", "https://h/x#access_token=***"),
        ("host=h password=hunter2 dbname=d", "host=h password=*** dbname=d"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("https://h/@scope/x?max_tokens=5", "https://h/@scope/x?max_tokens=5"),
        ("someone@example.org", "someone@example.org"),
    ],
)
def test_uri(text: str, masked: str) -> None:
    """User information and secret parameters of a URI are masked, and nothing else."""
    assert mask_uri(text) == masked


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("Cfg(password='hunter2', x=1)", "Cfg(password='***', x=1)"),
        ("Cfg(password='hun ter\\'2', x=1)", "Cfg(password='***', x=1)"),
        ("Cfg(password=b'hun ter2')", "Cfg(password='***')"),
        ("Cfg(db=Db(password=hunter2), x=1)", "Cfg(db=Db(password=***), x=1)"),
        ("Cfg(credentials=Login('u)', pw='hunter2'), x=1)", "Cfg(credentials=***, x=1)"),
        ("<Cfg api_key='hunter2' x=1>", "<Cfg api_key='***' x=1>"),
        ("Cfg(x=1, password='hunter2 not closed", "Cfg(x=1, password='***'"),
        ('{"password": "hunter2", "x": 1}', '{"password": "***", "x": 1}'),
        ('{"password":12345,"x":1}', '{"password":***,"x":1}'),
        ('{"passwords": ["hunter2", "b, c"], "x": 1}', '{"passwords": ***, "x": 1}'),
        ("{'password': 'hunter2', 'x': 1}", "{'password': '***', 'x': 1}"),
        (
            r'{"a": "{\"password\": \"hun\\\"ter2\", \"x\": 1}"}',
            r'{"a": "{\"password\": \"***\", \"x\": 1}"}',
        ),
        ('{"my password": "hunter2"}', '{"my password": "***"}'),
        ("see {'password': 'hunter2'} there", "see {'password': '***'} there"),
        ("db.url=h,db.password=hunter2", "db.url=h,db.password=***"),
        ("model=a:password=hunter2 x=1", "model=a:password=*** x=1"),
    ],
)
def test_text(text: str, masked: str) -> None:
    """A value is masked whole, in an object's repr and in JSON; a mask is not masked again."""
    assert mask_mapping({"a": text}) == {"a": masked}
    assert mask_mapping({"a": masked}) == {"a": masked}


@pytest.mark.parametrize(
    "text",
    [
        "Enter the password: it is in the safe, and the token = access",
        "Cfg(password=None, max_tokens=5, tokenizer='gpt2', key='k')",
        "AddedToken(pad_token='<pad>', eos_token='</s>')",
        '{"token": null, "max_tokens": 5, "bos_token": "<s>", "key": "k"}',
        "s3://bucket/token=5/part-0",
        "https://h/x?token=&b=2",
        "(a secret, a password)",
    ],
)
def test_text_without_secrets(text: str) -> None:
    """Prose, unset secrets and the tokens of a language model stay as they are."""
    assert mask_mapping({"a": text}) == {"a": text}


def test_long_text() -> None:
    """The time to mask a text grows no faster than its length: 200 kB here."""
    for text in ("a" * 200_000, "a=" * 100_000, "'" * 200_000, '"a":' * 50_000):
        assert mask_uri(text) == text


def test_lists() -> None:
    """A list is read as a command line: what follows a secret flag is masked, and None stays."""
    values = {
        "argv": ["--password", "hunter2", "--lr", "0.1"],
        "mixed": ("--pin-password", -12345, None, "--x", 5),
        "number": ["--password", "-12345"],
        "nested": [["--password", "hunter2"], {"token": "hunter2"}],
        "prose": ["- the password", "apples"],
    }
    assert mask_mapping(values) == {
        "argv": ["--password", "***", "--lr", "0.1"],
        "mixed": ["--pin-password", "***", None, "--x", 5],
        "number": ["--password", "***"],
        "nested": [["--password", "***"], {"token": "***"}],
        "prose": ["- the password", "apples"],
    }


def test_argv() -> None:
    """Values of secret flags are masked in both spellings; what follows the next flag is not."""
    argv = ["train.py", "--api-token", "hunter2", "--password=hunter2", "--lr", "0.1"]
    argv += ["--uri", "http://u:hunter2@h", "--uri=http://u:hunter2@h", "--max-tokens", "5"]
    masked = mask_argv(argv)
    assert masked[:6] == ["train.py", "--api-token", "***", "--password=***", "--lr", "0.1"]
    assert masked[6:] == ["--uri", "http://***@h", "--uri=http://***@h", "--max-tokens", "5"]
