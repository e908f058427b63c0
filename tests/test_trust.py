"""Nothing that a run reads can run code or lead elsewhere; nothing secret is written down."""

from __future__ import annotations

import builtins
import io
import os
import pickle
import socket
import subprocess
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xxhash
from support import Small, Zygote

from igniter.checkpoint import manifest as manifests
from igniter.checkpoint import sums
from igniter.checkpoint.store import CheckpointStore, load
from igniter.cli import main as cli
from igniter.errors import CheckpointDamaged, IgniterError, RunRefused, UsageError
from igniter.rundir import Paths
from igniter.secrets import mask_uri
from igniter.tracking.records import read
from igniter.tracking.state import State, count_unsent
from igniter.tracking.sync import SendingLock
from igniter.tracking.uri import resolve
from igniter.yamlfile import dump
from igniter.yamlfile import load as load_yaml


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sound checkpoint, of iteration 2; that of iteration 1 is beside it."""
    store = CheckpointStore(tmp_path / "checkpoints")
    for iteration in (1, 2):
        checkpoint = store.commit(
            iteration,
            epoch=1,
            reason="test",
            final=False,
            state={"weight": torch.zeros(3)},
            rank_state={"position": iteration},
            extra={"journal_offset": 0},
        )
    return checkpoint.path


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest and give it its right checksum again, as a forger would."""
    manifest = manifests.read(path)
    change(manifest)
    (path / "manifest.json").write_bytes(manifests.serialise(manifest))


def forge(path: Path, data: bytes, name: str = "state.pt") -> None:
    """Put ``data`` in the place of a file, with the manifest to fit."""
    (path / name).write_bytes(data)
    entry = {"size": len(data), sums.WRITTEN: xxhash.xxh3_128(data).hexdigest()}
    rewrite_manifest(path, lambda manifest: manifest["files"].update({name: entry}))
    manifests.verify(manifests.scan(path.parent)[-1])  # no checksum tells the two apart


class Call:
    """Is a call when it is unpickled."""

    def __init__(self, function: Any, *args: Any) -> None:
        self._call = function, args

    def __reduce__(self) -> Any:
        return self._call


def saved(value: Any, **how: Any) -> bytes:
    """``value`` as ``torch.save`` writes it."""
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def rebuilt(
    pickled: bytes | None, more: dict[str, bytes] | None = None, kind: int = zipfile.ZIP_STORED
) -> bytes:
    """An archive of torch's with another pickle in it, or with more files, or compressed."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"weight": torch.zeros(3)}))) as source,
        zipfile.ZipFile(target, "w", kind) as archive,
    ):
        for name in source.namelist():
            replaced = pickled is not None and name.endswith("data.pkl")
            archive.writestr(name, pickled if replaced else source.read(name))
        for name, data in (more or {}).items():
            archive.writestr(f"{source.namelist()[0].split('/')[0]}/{name}", data)
    return target.getvalue()


def scripted() -> bytes:
    """A TorchScript archive, which is a program."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), buffer)
    return buffer.getvalue()


def overlapping() -> bytes:
    """An archive whose parts are said to be larger than it is."""
    data = bytearray(rebuilt(None))
    start = data.rindex(b"PK\1\2")
    data[start + 20 : start + 28] = (1 << 30).to_bytes(4, "little") * 2
    return bytes(data)


def rebuild(*args: Any) -> bytes:
    """torch's own function for a tensor, called with what makes it do something else."""
    return rebuilt(pickle.dumps(Call(torch._utils._rebuild_tensor_v2, *args), 2))


def tagged(name: Any, value: Any) -> bytes:
    """What igniter takes for a value of another type."""
    return saved({"__igniter__": name, "value": value})


NOTHING = torch.zeros(0, dtype=torch.uint8)
FORGERIES: dict[str, Callable[[Call], bytes]] = {
    "pickle": lambda attack: pickle.dumps(attack),
    "archive": lambda attack: saved(attack),
    "nested in a state": lambda attack: saved({"model": [{"weight": attack}]}),
    "legacy": lambda attack: saved(attack, _use_new_zipfile_serialization=False),
    "legacy, plain": lambda attack: saved({}, _use_new_zipfile_serialization=False),
    "builtins.eval": lambda attack: saved(Call(builtins.eval, "1")),
    "builtins.getattr": lambda attack: saved(Call(getattr, Call(__import__, "os"), "system")),
    "torch.load": lambda attack: saved(Call(torch.load, "x")),
    "another pickle in it": lambda attack: rebuilt(pickle.dumps(attack, 2)),
    "more pickles in it": lambda attack: rebuilt(
        None, {"constants.pkl": pickle.dumps(attack), "code/x.py": b"1"}
    ),
    "hooks": lambda attack: rebuild(torch.zeros(1), 0, (1,), (1,), False, attack),
    "a storage that is none": lambda attack: rebuild(1, 2, (3,), (1,), False, {}),
    "TorchScript": lambda attack: scripted(),
    "compressed": lambda attack: rebuilt(None, {"zeros": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
    "larger than itself": lambda attack: overlapping(),
    "not an archive": lambda attack: b"x" * 1000,
    "empty": lambda attack: b"",
    "an empty pickle": lambda attack: rebuilt(b""),
    "a broken pickle": lambda attack: rebuilt(b"\x80\x02" + b"(" * 5000 + b"."),
    "a huge bytearray": lambda attack: rebuilt(pickle.dumps(Call(bytearray, 1 << 60), 2)),
    "an unknown form": lambda attack: tagged("os.system", "true"),
    "an unhashable form": lambda attack: tagged(["x"], "true"),
    "a dtype that is a function": lambda attack: tagged("torch.dtype", "torch.load"),
    "a huge array": lambda attack: tagged("array", ("<f4", (10**12,), NOTHING)),
    "an array of objects": lambda attack: tagged("array", ("|O", (4,), torch.zeros(32).byte())),
    "empty array of objects": lambda attack: tagged("array", ("|O", (4,), NOTHING)),
}


@pytest.mark.parametrize("name", ["state.pt", "rank-00000.pt"])
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_file_is_refused_and_runs_nothing(
    path: Path, tmp_path: Path, forgery: str, name: str
) -> None:
    """Whatever stands in a file with the right checksum: it is refused, and no code of it runs."""
    victim = tmp_path / "victim"
    forge(path, FORGERIES[forgery](Call(os.mkdir, str(victim))), name)
    with pytest.raises(RunRefused, match=f"{path / name}"):
        load(path)
    store = CheckpointStore(path.parent, warn=lambda text: None)
    try:
        loaded = store.newest()
        assert loaded is not None
        assert loaded.checkpoint.iteration == 1
    except RunRefused:
        assert path.exists()  # what looks like too little memory is left where it is
    assert not victim.exists()


def test_the_attacks_are_real(tmp_path: Path) -> None:
    """The negative control: loaded without care each of them acts."""
    for number, forgery in enumerate(("archive", "nested in a state", "legacy")):
        victim = tmp_path / str(number)
        data = FORGERIES[forgery](Call(os.mkdir, str(victim)))
        torch.load(io.BytesIO(data), weights_only=False)
        assert victim.exists()


def test_nothing_widens_what_is_loaded(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No variable of torch's that switches its care off has a say."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    victim = tmp_path / "victim"
    forge(path, saved(Call(os.mkdir, str(victim))))
    with pytest.raises(RunRefused):
        load(path)
    assert not victim.exists()


ENTRY = {"size": 1, sums.WRITTEN: "0" * 32}


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest["files"].update({"../state.pt": ENTRY}),
        lambda manifest: manifest["files"].update({"/etc/passwd": ENTRY}),
        lambda manifest: manifest["files"].update({"other.pt": ENTRY}),
        lambda manifest: manifest["files"].update({"state.pt\n": ENTRY}),
        lambda manifest: manifest["files"].update({"sub/state.pt": ENTRY}),
        lambda manifest: manifest["files"].pop("rank-00000.pt"),
        lambda manifest: manifest["files"].update({"state.pt": "x"}),
        lambda manifest: manifest["files"]["state.pt"].update(size=1.0),
        lambda manifest: manifest["files"]["state.pt"].pop(sums.WRITTEN),
        lambda manifest: manifest["files"]["state.pt"].update({sums.WRITTEN: "x"}),
        lambda manifest: manifest["files"]["state.pt"].update(sha256="0" * 64),
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(iteration="1"),
        lambda manifest: manifest.update(iteration=-1),
        lambda manifest: manifest.update(iteration=True),
        lambda manifest: manifest.update(epoch=None),
        lambda manifest: manifest.update(final=0),
        lambda manifest: manifest.update(journal_offset="x"),
        lambda manifest: manifest.update(arguments=[1]),
    ],
)
def test_a_forged_manifest_is_damage(
    path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """File names outside the closed set, and missing parts, are refused before any is opened."""
    rewrite_manifest(path, change)
    with pytest.raises(CheckpointDamaged, match=r"manifest\.json"):
        load(path)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000 + "]" * 200_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"iteration": ' + "9" * 10_000 + "}",
        '{"iteration": NaN}',
        '{"iteration": 1, "iteration": 2, "checksum": ""}',
        '"text"',
        "null",
        "",
        "\0" * 4096,
        "\ud800".encode("utf-16", "surrogatepass").decode("latin-1"),
    ],
    ids=range(10),
)
def test_a_manifest_made_to_choke_its_reader_is_damage(path: Path, text: str) -> None:
    """Depth, endless numbers, NaN, repeated keys and what is no manifest at all."""
    (path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointDamaged, match="not what was written"):
        manifests.read(path)


IN_PLACE: dict[str, Callable[[Path], object]] = {
    "link": lambda file: file.symlink_to(file.rename(file.parent.parent / "outside")),
    "loop": lambda file: (file.unlink(), file.symlink_to(file.name)),
    "dangling": lambda file: (file.unlink(), file.symlink_to("nowhere")),
    "device": lambda file: (file.unlink(), file.symlink_to("/dev/zero")),
    "pipe": lambda file: (file.unlink(), os.mkfifo(file)),
    "socket": lambda file: (file.unlink(), _bind(file)),
    "directory": lambda file: (file.unlink(), file.mkdir()),
    "hole": lambda file: os.truncate(file, 1 << 40),
}


def _bind(file: Path) -> None:
    here = Path.cwd()
    os.chdir(file.parent)  # the name of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(file.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize("name", ["state.pt", "rank-00000.pt", "manifest.json"])
@pytest.mark.parametrize("what", IN_PLACE)
def test_what_is_no_file_is_damage(
    path: Path, what: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A link (even to the right content), a pipe, a device, a hole: refused, nobody waits."""
    IN_PLACE[what](path / name)
    checkpoint = manifests.scan(path.parent)[-1]
    with pytest.raises(CheckpointDamaged, match=name):
        manifests.verify(checkpoint)
    (path.parent.parent / "run.yaml").write_text(
        dump({"name": "x", "script": "", "identity": "", "arguments": {}, "parameters": {}})
    )
    assert cli(["show", str(path.parent.parent), "--verify"]) == 3
    assert f"{name} is damaged" in capsys.readouterr().out
    assert cli(["runs", str(path.parent.parent)]) == 0
    store = CheckpointStore(path.parent, warn=lambda text: None)
    loaded = store.newest()
    assert loaded is not None
    assert loaded.checkpoint.iteration == 1


def test_links_to_checkpoints_are_not_trusted(path: Path, tmp_path: Path) -> None:
    """A directory that is a link is none of the run's, and ``latest`` has no say in a resume."""
    outside = path.rename(tmp_path / "outside")
    path.symlink_to(outside)
    latest = path.parent / "latest"
    latest.unlink()
    latest.symlink_to(outside)
    loaded = CheckpointStore(path.parent, warn=pytest.fail).newest()
    assert loaded is not None
    assert loaded.checkpoint.iteration == 1


# Text files


BOMB = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
    f"{after}: &{after} [{', '.join(['*' + before] * 8)}]\n"
    for before, after in zip("abcdefghi", "bcdefghij", strict=True)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: !!python/object/apply:os.system ['touch victim']", ":1: the tag"),
        ("a: 1\nname: !!python/name:os.system", ":2: the tag"),
        ("name: !!binary aGk=", ":1: the tag"),
        ("name: !mine x", ":1: the tag"),
        ("name: !!str x", ":1: the tag"),
        ("[" * 5000, ":1: nested more than 100 levels deep"),
        ("a: [", "not valid YAML"),
        ("\0", "not valid YAML"),
    ],
)
def test_yaml_with_tags_or_depth_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """In a settings file as in run.yaml, by file and line where there is one."""
    file = tmp_path / "run.yaml"
    file.write_text(text)
    script = tmp_path / "train.py"
    script.write_text("from igniter.main import igniter_main\nigniter_main(lambda args: None)\n")
    for look in (lambda: load_yaml(file), lambda: _settings(file)):
        with pytest.raises(UsageError, match=f"{file}.*({said})"):
            look()
    assert not (tmp_path / "victim").exists()


def _settings(file: Path) -> object:
    from igniter.yamlfile import read_settings

    return read_settings(file)


@pytest.mark.parametrize("text", [BOMB, "iteration: 2026-13-40", "iteration: 0o9_", "{[]: 1}"])
def test_a_run_yaml_that_nobody_wrote_is_refused(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Aliases to aliases, dates that are none: one message, by ``igniter`` and by a start alike."""
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(RunRefused, match=f"{tmp_path / 'run.yaml'} cannot be used"):
        Small(tmp_path).train()
    for arguments in (["runs", str(tmp_path)], ["show", str(tmp_path)]):
        assert cli(arguments) == 3
    assert "Traceback" not in capsys.readouterr().err


def test_what_igniter_writes_has_no_aliases(tmp_path: Path) -> None:
    """Two keys with one list are read back, each with its own."""
    shared = [1, 2]
    (tmp_path / "file").write_text(dump({"a": shared, "b": shared}))
    assert load_yaml(tmp_path / "file") == {"a": [1, 2], "b": [1, 2]}


DEEP = "[" * 100_000


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", DEEP, '{"current": "u", "destinations": {"u": {"offset": "x"}}}',
        '{"current": "u", "destinations": {"u": {"run_id": 5}}}',
        '{"current": "u", "destinations": {"u": {"other": 5}}}',
        '{"current": ["u"], "destinations": {"u": {}}}', "\0", '{"destinations": 1, "current": 1}',
    ],
)  # fmt: skip
def test_a_tracking_file_of_junk_is_as_none(tmp_path: Path, text: str) -> None:
    """What it held can be found again."""
    (tmp_path / "tracking.json").write_text(text)
    state = State.load(tmp_path / "tracking.json")
    assert state.destination.offset == 0
    assert state.destination.run_id is None


def test_a_journal_of_junk_is_passed_over(tmp_path: Path) -> None:
    """Junk between records is no record and stops nobody, nor does an offset past all files."""
    good = '{"time":1,"attempt":1,"iteration":1,"epoch":1,"kind":"result","metrics":{"a":0.5}}\n'
    junk = [DEEP, '{"time":1e999}', "\0\0", '"', good.replace("0.5", "9" * 400).strip(), "{}", ""]
    journal = tmp_path / "journal.jsonl"
    journal.write_text(good + "\n".join(junk) + "\n" + good)
    assert [record.metrics for record in read(journal)] == [{"a": 0.5}, {"a": 0.5}]
    assert count_unsent(journal, 1 << 80) >= 2
    journal.unlink()
    os.mkfifo(journal)
    assert count_unsent(journal, 0) == 0
    with pytest.raises(IgniterError, match=r"journal\.jsonl cannot be opened"):
        Small(tmp_path).train()


def test_a_sender_takes_away_what_a_dead_one_left(tmp_path: Path) -> None:
    """The half of a ``tracking.json`` goes when the next sender begins; other files stay."""
    (tmp_path / ".tracking.json.77.part").write_text("half")
    (tmp_path / ".run.yaml.77.part").write_text("of another")
    with SendingLock(Paths(tmp_path)) as lock:
        assert lock.acquire(1.0)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [".run.yaml.77.part", "tracking.lock"]


# Secrets

SECRET = "hunter2-Zq9"
SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from torch import nn
from igniter import RunSpec, train
from igniter.args import train_kwargs
from igniter.main import igniter_main

def arguments(parser):
    for name in ("api-key", "token", "hub-token", "db-password", "dsn", "endpoint"):
        parser.add_argument("--" + name)
    parser.add_argument("--pin-password", type=int)
    parser.add_argument("--login", nargs="*", default={"user": "me", "password": os.environ["PW"]})

def main(args):
    from igniter import attempt
    attempt._WAIT_SECONDS.update(completed=float(os.environ["PATIENCE"]), interrupted=0.5)
    given = vars(args)
    assert os.environ["PW"] in given["hub_token"] + given["db_password"]
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    def step(engine, batch):
        optimizer.zero_grad()
        loss = model(batch).square().mean()
        loss.backward()
        optimizer.step()
        if engine.state.iteration == 5:
            children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
            for child in children:
                print("child", Path(f"/proc/{child}/cmdline").read_bytes())
            if os.environ.get("DO") == "stop":
                os.kill(os.getpid(), signal.SIGTERM)
            if os.environ.get("DO") == "raise":
                raise ValueError("cannot reach " + args.dsn)
        return {"loss": loss}
    loader = torch.utils.data.DataLoader(torch.arange(16.0)[:, None], batch_size=2)
    train(
        to_save={"model": model, "optimizer": optimizer},
        train_spec=RunSpec(step=step, loader=loader, metrics={"loss": "loss"}),
        **train_kwargs(args),
        parameters=vars(args),
    )

if __name__ == "__main__":
    igniter_main(main, inputs={"data": "data"}, arguments=arguments)
"""


@pytest.mark.parametrize(
    "text",
    [
        f"mysql://me:{SECRET}/and/more@host/db",
        f"https://me:a@{SECRET}@host",
        f"s3://b/k?versionId=1&X-Amz-Signature={SECRET}",
        f"https://x.blob.core.windows.net/c?sv=1&sig={SECRET}&se=2",
        f"https://storage.googleapis.com/b/o?X-Goog-Signature={SECRET}",
        f"https://b.s3.amazonaws.com/o?Signature={SECRET}&Expires=1",
    ],
)
def test_what_signs_or_opens_a_uri_is_masked(text: str) -> None:
    """A password with a slash in it, and the signatures of S3, Azure and Google."""
    assert SECRET not in mask_uri(text)
    assert mask_uri(text)[:5] == text[:5]


def test_what_only_looks_like_it_is_shown() -> None:
    """Ports, paths with an @ in them, and settings called signature."""
    for text in ("http://h:8080/x@v1", "https://h/a:b@c", "signature=3", "git+https://h/a@v1"):
        assert mask_uri(text) == text


@pytest.mark.parametrize("uri", [f"me:{SECRET}@host:5000", f"file://me:{SECRET}@host", SECRET])
def test_a_tracking_uri_that_is_none_is_not_repeated(tmp_path: Path, uri: str) -> None:
    """One without its scheme may begin with a password: it is refused and not shown."""
    with pytest.raises(UsageError) as refused:
        resolve(uri, tmp_path)
    assert uri == SECRET or SECRET not in str(refused.value)


def found_in(folder: Path) -> list[str]:
    """The files below ``folder`` that hold the secret, apart from those it was given in."""
    return [
        str(file)
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != "given.yaml" and SECRET.encode() in file.read_bytes()
    ]


@pytest.mark.slow
def test_no_secret_is_written_down(
    tmp_path: Path,
    zygote: Zygote,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By flag, file, variable and URI: in no file, database, message or command line of a child."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    (tmp_path / "given.yaml").write_text("hub_token: committed\n")
    for command in ("init", "add given.yaml", "-c user.name=a -c user.email=a@b commit -m x"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    (tmp_path / "given.yaml").write_text(f"hub_token: {SECRET}\n")
    argv = [
        "--config", "given.yaml", "--api-key", SECRET, f"--token={SECRET}",
        "--dsn", f"postgresql://me:{SECRET}/x@h/db", "--max-epochs", 2, "--device", "cpu",
        "--endpoint", f"https://me:{SECRET}@h/x?access_token={SECRET}",
        "--data", f"s3://b/k?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&sig={SECRET}",
        "--mlflow-tracking-username", "somebody", "--output-dir", "run",
    ]  # fmt: skip
    env = {
        "PW": SECRET,
        "IGNITER_DB_PASSWORD": SECRET,
        "HF_TOKEN": SECRET,
        "MLFLOW_TRACKING_PASSWORD": SECRET,
        "PATIENCE": "0.5",
    }
    server = ["--mlflow-tracking-uri", f"http://me:{SECRET}@127.0.0.1:9"]
    stopped = zygote.run(script, *argv, *server, cwd=tmp_path, env={**env, "DO": "stop"})
    assert stopped.code == 143, stopped
    assert "child b'" in stopped.out
    assert "To go on:" in stopped.out + stopped.err
    failed = zygote.run(
        script, *argv[:-1], "failed", "--no-mlflow", cwd=tmp_path, env={**env, "DO": "raise"}
    )
    assert failed.code == 1
    # The interpreter shows what the script itself raised.
    max(tmp_path.glob(".err-*"), key=lambda path: path.stat().st_mtime_ns).unlink()
    done = zygote.run(
        script, *argv[:-1], "tracked", "--mlflow-tracking-uri", "sqlite:///db.sqlite",
        "--mlflow-tags", f"api_key={SECRET}", "--mlflow-tags", f"from=http://me:{SECRET}@h/",
        "--mlflow-description", f"https://me:{SECRET}@h", "--mlflow-log-git-diff", "--tensorboard",
        "--mlflow-log-model", "--mlflow-log-checkpoints", "all",
        cwd=tmp_path, env={**env, "PATIENCE": "40"},
    )  # fmt: skip
    kept = {path.name for path in (tmp_path / "mlruns").rglob("*")}
    assert kept >= {"git.diff", "environment.txt", "attempts.csv", "model.pt2", "state.pt"}
    assert done.code == 0, done
    assert "MLflow run" in done.out + done.err
    monkeypatch.chdir(tmp_path)
    for arguments in (["show", "run"], ["show", "run", "--json"], ["runs", ".", "--json"]):
        assert cli(arguments) == 0
    (tmp_path / "shown").write_text("".join(capsys.readouterr()))
    assert "***" in (tmp_path / "shown").read_text()
    for bad in (["--api-tokne", SECRET], ["--pin-password", SECRET]):
        refused = zygote.run(script, *bad, cwd=tmp_path, env=env)
        assert refused.code == 2
    printed = zygote.run(script, *argv, "--print-config", cwd=tmp_path, env=env)
    assert "***" in printed.out
    leaks = found_in(tmp_path)
    assert leaks == []
    assert "somebody" not in (tmp_path / "run" / "run.yaml").read_text()
    (tmp_path / "run" / "planted").write_text(f"x{SECRET}")
    assert str(tmp_path / "run" / "planted") in found_in(tmp_path)
