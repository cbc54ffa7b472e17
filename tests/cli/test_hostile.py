"""Every command, and both formats of the log, with hostile text in every field from outside."""

from __future__ import annotations

import io
import json
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

import nri_sync
from nri_sync import api, kit
from nri_sync.cli import events, main
from nri_sync.cli.console import Console
from nri_sync.cli.errors import ExitCode
from nri_sync.errors import NRIError
from nri_sync.runtime import Runtime
from nri_sync.testing.recordings import Recorder
from nri_sync.testing.recordings.entries import NOTE, PLUGIN, REQUEST, RESPONSE, RUNTIME, Entry
from tests.listening import is_listening

__all__: list[str] = []

LONG = 60.0
#: All kinds of line feeds, 7-bit and 8-bit escape sequences, bidirectional and invisible characters; and long.
WORST = (
    "x\nFORGED\r\nFORGED\x85FORGED\u2028FORGED\x0bFORGED\x1b[31m\x1b[2J\x1b]0;title\x07\x9b31m\x90q\x9c\x7f\0\x08"
    "\u202eabc\u2066\u200f\u061c\u200b\u200d\ufeff\u2060\u3164\xad\U000e0041" + "A" * 3000
)
# A protobuf message cannot contain a lone surrogate.
LOCAL = WORST.replace("abc", "\udcff\ud800")
ANSWERED = "answered"

PLUGIN_FILE = f"""
import nri_sync
from nri_sync import api

WORST = {LOCAL!a}

class Hostile(nri_sync.Plugin):
    def run_pod_sandbox(self, pod):
        raise ValueError(WORST)

    def create_container(self, pod, container):
        sent = WORST.encode("utf-8", "replace").decode()
        adjust = api.ContainerAdjustment(annotations={{sent: sent}}, args=[sent])
        adjust.env.add(key=sent, value=sent)
        adjust.mounts.add(destination=sent, source=sent, type=sent, options=[sent])
        return adjust

    def update_container(self, pod, container, resources):
        return [api.Update("no" + WORST.encode("utf-8", "replace").decode()).set_memory(limit=1 << 30)]

    def validate_container_adjustment(self, request):
        raise nri_sync.errors.ConfigError(WORST, (WORST, WORST))
"""


def hostile() -> Any:
    made: dict[str, Any] = {}
    exec(PLUGIN_FILE, made)
    return made["Hostile"]()


def fill(message: Message, depth: int = 4) -> None:
    """Write the text into every field that can hold text."""
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        kind = field.message_type
        if kind is not None and kind.GetOptions().map_entry:
            if kind.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                value[WORST] = WORST
        elif kind is not None and depth:
            fill(value.add() if hasattr(value, "add") else value, depth - 1)
        elif field.type == FieldDescriptor.TYPE_STRING:
            if hasattr(value, "append"):
                value.append(WORST)
            else:
                setattr(message, field.name, WORST)


POD, CONTAINER = api.PodSandbox(), api.Container()
fill(POD)
fill(CONTAINER)


def clean(text: str, *, longest: int | None = 20_000) -> None:
    """Check that no control character reaches the terminal, and that the text begins no line."""
    assert "FORGED" in text, "the text is not shown at all"
    lines = text.split("\n")
    for line in lines:
        assert line.isprintable(), ascii(line[:300])
        assert "\u3164" not in line
        assert not line.startswith("FORGED")
        assert longest is None or len(line) <= longest


def clean_json(text: str) -> Any:
    assert text.isascii()
    assert "\x7f" not in text
    assert all(char.isprintable() or char == "\n" for char in text)
    assert "FORGED" in text
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "plugin.py"
    path.write_text(PLUGIN_FILE, encoding="utf-8")
    return path


@pytest.fixture
def path(socket_dir: Path) -> Path:
    return socket_dir / "s"


@pytest.fixture
def runtime(path: Path) -> Iterator[Runtime]:
    def synchronize(sync: Any) -> None:
        sync([POD], [CONTAINER])

    with Runtime(
        WORST, WORST, synchronize=synchronize, update_containers=lambda updates, evictions: [],
        socket_path=str(path), plugin_path=None, registration_timeout=LONG, request_timeout=LONG,
    ) as runtime:  # fmt: skip
        yield runtime


class Command:
    """A command that runs until it is interrupted. A thread collects its output."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nri_sync", *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        # Read bytes: in text mode, each carriage return would end a line.
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line.decode())
                self._changed.notify_all()
        with self._changed:
            self._lines.append(ANSWERED)
            self._changed.notify_all()

    def wait_for(self, *texts: str) -> None:
        def seen() -> bool:
            return all(any(text in line for line in self._lines) for text in texts)

        with self._changed:
            assert self._changed.wait_for(lambda: seen() or ANSWERED in self._lines, LONG), texts
            assert seen(), self._lines

    def text(self) -> str:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(LONG) in (0, 128 + signal.SIGINT)
        self._thread.join(LONG)
        return "".join(self._lines[:-1])

    def close(self) -> None:
        self.process.kill()
        self.process.wait(LONG)
        self._thread.join(LONG)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def command(*arguments: object) -> Iterator[Command]:
    made = Command(*arguments)
    try:
        yield made
    finally:
        made.close()


def happen(runtime: Runtime) -> None:
    """Send one event for each kind of answer: an error, an adjustment, a rejection."""
    for event in (
        lambda: runtime.run_pod_sandbox(POD),
        lambda: runtime.create_container(POD, CONTAINER),
        lambda: runtime.stop_container(POD, CONTAINER),
    ):
        try:
            event()
        except NRIError as error:
            clean(str(error))


@pytest.mark.parametrize("options", [[], ["-o", "json"], ["-o", "yaml"]], ids=str)
def test_events(runtime: Runtime, path: Path, options: list[str]) -> None:
    with command("events", "--socket", path, *options) as shown:
        assert runtime.wait_for_plugins(lambda names: names, timeout=LONG)
        happen(runtime)
        shown.wait_for("StopContainer")
        text = shown.text()
    if options == ["-o", "json"]:
        assert clean_json(text)[-1]["pod"]["name"] == WORST
    else:
        clean(text, longest=None if "yaml" in options else 20_000)
        if "yaml" in options:
            # The interrupt may have cut off the last document.
            documents = [yaml.safe_load(part) for part in text.split("---\n")[1:-1]]
            assert documents[-1]["pod"]["name"] == WORST


def test_the_live_table_of_events() -> None:
    inventory = kit.Inventory()
    inventory.synchronize([POD], [CONTAINER])
    stream = io.StringIO()
    table = events.live_table(inventory.snapshot(), {}, lambda pod: True)
    Console(file=stream, width=200).print(table)
    clean(stream.getvalue())


@pytest.mark.parametrize("options", [[], ["--full"], ["-o", "json"]], ids=str)
def test_trace(runtime: Runtime, path: Path, options: list[str]) -> None:
    listen = path.with_name("t")
    arguments = ("--socket", path, "--listen", listen, *options)
    with command("trace", *arguments) as shown:
        give_up = time.monotonic() + LONG
        while not is_listening(listen):
            assert time.monotonic() < give_up
            time.sleep(0.02)
        with nri_sync.Stub(hostile(), name="a", idx="10", socket_path=str(listen)):
            assert runtime.wait_for_plugins(lambda names: names, timeout=LONG)
            happen(runtime)
        shown.wait_for("closed")
        text = shown.text()
    if options == ["-o", "json"]:
        clean_json(text)
    else:
        clean(text, longest=None if options else 20_000)


@pytest.mark.parametrize("format", ["text", "json"])
def test_run(runtime: Runtime, path: Path, plugin: Path, format: str) -> None:
    with command(
        "run", plugin, "--socket", path, "--idx", "10", "--log-format", format,
        "--log-level", "debug", "--dump", "all",
    ) as shown:  # fmt: skip
        assert runtime.wait_for_plugins(lambda names: names, timeout=LONG)
        happen(runtime)
        text = shown.text()
    if format == "json":
        assert any(record.get("pod", "").startswith("x\nFORGED") for record in clean_json(text))
    else:
        clean(text, longest=None)
        assert all(line[:2] in ("20", "  ", "") for line in text.split("\n"))


def manifest(name: str, text: str, value: str) -> dict[str, Any]:
    """A pod with ``name`` for names, ``text`` for keys, and ``value`` for arbitrary text."""
    container = {
        "name": name, "image": "i", "args": [value], "command": [value], "workingDir": "/" + value,
        "env": [{"name": "E" + text, "value": value}],
        "volumeMounts": [{"name": name, "mountPath": "/m" + value}],
    }  # fmt: skip
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name, "namespace": name, "labels": {text: text}, "annotations": {text: value},
        },
        "spec": {"containers": [container], "volumes": [{"name": name, "emptyDir": {}}]},
    }  # fmt: skip


@pytest.mark.parametrize("options", [[], ["--all"], ["-o", "json"]], ids=str)
def test_simulate(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(manifest("web", "key", WORST.replace("\0", ""))))
    assert main(["simulate", "-f", str(path), str(plugin), *options]) != ExitCode.OK
    output = capsys.readouterr()
    if options == ["-o", "json"]:
        assert output.err == ""
        assert json.loads(output.out)
        clean_json(json.dumps(json.loads(output.out)))
        assert output.out.isascii()
    else:
        clean(output.out + output.err)


def test_a_manifest_that_simulate_refuses(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(manifest(WORST, WORST, WORST)))
    assert main(["simulate", "-f", str(path), str(plugin)]) != ExitCode.OK
    output = capsys.readouterr()
    assert output.out == ""
    clean(output.err)


def with_container(settings: dict[str, Any]) -> dict[str, Any]:
    spec = {"containers": [{"name": "a", "image": "b", **settings}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec}


@pytest.mark.parametrize(
    "manifest",
    [
        {"apiVersion": WORST, "kind": WORST},
        {"apiVersion": "v1", "kind": "Pod", "metadata": WORST},
        with_container({"resources": {"limits": {WORST: WORST, "cpu": WORST}}}),
        with_container({"volumeMounts": [{"name": WORST, "mountPath": WORST}]}),
    ],
    ids=["kind", "metadata", "quantity", "volume"],
)
def test_a_manifest_that_is_wrong(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], manifest: Any
) -> None:
    path = tmp_path / "pod.json"
    path.write_text(json.dumps(manifest))
    for option in ([], ["--traceback"]):
        assert main(["simulate", "-f", str(path), str(plugin), *option]) == ExitCode.INPUT
        output = capsys.readouterr()
        clean(output.out + output.err)


def test_doctor(
    runtime: Runtime, path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugins = tmp_path / "opt/nri/plugins"
    plugins.mkdir(parents=True)
    (plugins / "10-a\nFORGED\x1b[2J\u202e").write_text("")
    (tmp_path / "etc/containerd").mkdir(parents=True)
    quoted = json.dumps(WORST)
    (tmp_path / "etc/containerd/config.toml").write_text(
        f'version = 2\n[plugins."io.containerd.nri.v1.nri"]\nsocket_path = {quoted}\n'
        f"plugin_path = {quoted}\n{quoted} = {quoted}\n"
    )
    for options in ([], ["-o", "json"]):
        main(["doctor", "--socket", str(path), "--root", str(tmp_path), *options])
        output = capsys.readouterr()
        if options:
            assert output.out.isascii()
            assert "FORGED" in output.out
            assert json.loads(output.out)
        else:
            clean(output.out + output.err)


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A recording whose plugin gives other answers now."""
    pb2 = api.nri_pb2
    create = pb2.CreateContainerRequest(pod=POD, container=CONTAINER)
    adjusted = pb2.CreateContainerResponse()
    fill(adjusted)
    registered = pb2.RegisterPluginRequest(plugin_name="hostile", plugin_idx="10")
    configure = pb2.ConfigureRequest(runtime_name=WORST, runtime_version=WORST, config=WORST)
    run_pod = pb2.RunPodSandboxRequest(pod=POD)
    entries = [
        Entry("opened", 1, note=WORST),
        Entry(REQUEST, 1, 0.1, PLUGIN, "RegisterPlugin", 1, message=registered),
        Entry(RESPONSE, 1, 0.2, RUNTIME, "RegisterPlugin", 1, message=pb2.Empty()),
        Entry(REQUEST, 1, 0.3, RUNTIME, "Configure", 1, message=configure),
        Entry(RESPONSE, 1, 0.4, PLUGIN, "Configure", 1, message=pb2.ConfigureResponse()),
        Entry(REQUEST, 1, 0.5, RUNTIME, "RunPodSandbox", 3, message=run_pod),
        Entry(RESPONSE, 1, 0.6, PLUGIN, "RunPodSandbox", 3, code=2, error="was " + WORST),
        Entry(REQUEST, 1, 0.7, RUNTIME, "CreateContainer", 5, message=create),
        Entry(RESPONSE, 1, 0.8, PLUGIN, "CreateContainer", 5, message=adjusted),
        Entry(NOTE, 1, 0.9, note=WORST),
        Entry("closed", 1, 1.0, note=WORST),
    ]
    path = tmp_path / "r.jsonl"
    with path.open("w", encoding="utf-8") as file:
        recorder = Recorder(file, socket=WORST)
        for entry in entries:
            recorder.write(entry)
    assert path.read_text("ascii")
    return path


@pytest.mark.parametrize("options", [[], ["-o", "json"]], ids=str)
def test_replay(
    plugin: Path, recording: Path, capsys: pytest.CaptureFixture[str], options: list[str]
) -> None:
    assert main(["replay", str(recording), str(plugin), *options]) == ExitCode.FOUND
    output = capsys.readouterr()
    if options:
        assert output.out.isascii()
        assert len(json.loads(output.out)) == 3
    else:
        clean(output.out + output.err, longest=None)


@pytest.mark.parametrize(
    "text", ["{}", json.dumps({WORST: WORST}), json.dumps({"nri_recording": WORST}), WORST]
)
def test_invalid_recordings(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    path = tmp_path / "FORGED\x1b[2J\n\u202e.jsonl"
    path.write_text(text, encoding="utf-8")
    assert main(["replay", str(path), str(plugin)]) == ExitCode.INPUT
    output = capsys.readouterr()
    clean(output.out + output.err)


def test_init_and_a_plugin_that_cannot_be_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "FORGED\x1b[2J\n\u202e"
    assert main(["init", str(directory), "--name", "good"]) == ExitCode.OK
    assert main(["init", str(directory)]) == ExitCode.USAGE
    broken = tmp_path / "broken.py"
    broken.write_text(f"raise ValueError({LOCAL!a})")
    for options in ([], ["--traceback"]):
        assert main(["run", str(broken), "--idx", "10", *options]) == ExitCode.PLUGIN
    output = capsys.readouterr()
    clean(output.out + output.err)


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    """The command shows no foreign text except by the functions of simulate, which have their own tests."""
    main(["demo"])
    assert all(line.isprintable() for line in capsys.readouterr().out.split("\n"))


class TestFormatters:
    """Formatters get records with hostile text in every part, from loggers outside nri_sync."""

    def record(self) -> logging.LogRecord:
        try:
            raise ValueError(LOCAL)
        except ValueError:
            failure = sys.exc_info()
        record = logging.LogRecord("a" + LOCAL, 30, LOCAL, 1, "%s and " + LOCAL, (LOCAL,), failure)
        record.stack_info = LOCAL
        record.levelname = LOCAL
        record.__dict__.update({"extra" + LOCAL: {LOCAL: [LOCAL]}})
        return record

    def test_text(self) -> None:
        with kit.log_scope(POD, CONTAINER, plugin=LOCAL, event=LOCAL, operation=LOCAL):
            text = kit.TextFormatter().format(self.record())
        clean(text, longest=None)
        assert all(line.startswith("    ") for line in text.split("\n")[1:])

    def test_json(self) -> None:
        with kit.log_scope(POD, CONTAINER, plugin=LOCAL, event=LOCAL, operation=LOCAL):
            [found] = clean_json(kit.JSONFormatter().format(self.record()))
        assert found["plugin"] == LOCAL

    def test_a_formatter_of_the_standard_library(self, runtime: Runtime, path: Path) -> None:
        """Plain log lines of every package that takes part in a session."""
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        logger = logging.getLogger("nri_sync")
        level = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
        try:
            with nri_sync.Stub(hostile(), name="a", idx="10", socket_path=str(path)):
                assert runtime.wait_for_plugins(lambda names: names, timeout=LONG)
                happen(runtime)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        clean(stream.getvalue())
