"""``nri-sync events``, on the embedded runtime."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from nri_sync import api
from nri_sync.cli.errors import ExitCode
from nri_sync.runtime import Runtime
from nri_sync.testing import FakeRuntime, make_pod

__all__: list[str] = []

LONG = 20.0
PODS = [
    api.PodSandbox(
        id="pod0", name="web", namespace="default", labels={"app": "web"}, ips=["10.0.0.7"]
    ),
    api.PodSandbox(id="pod1", name="dns", namespace="kube-system", labels={"app": "dns"}),
]
CONTAINERS = [
    api.Container(
        id="ctr0",
        pod_sandbox_id="pod0",
        name="nginx",
        pid=4242,
        state=api.ContainerState.CONTAINER_RUNNING,
        image=api.Image(name="docker.io/library/nginx:1.29"),
    )
]
NAME = "99-events"


@pytest.fixture
def path(socket_dir: Path) -> Path:
    return socket_dir / "s"


@pytest.fixture
def runtime(path: Path) -> Iterator[Runtime]:
    embedded = make_runtime(path)
    with embedded:
        yield embedded


def make_runtime(path: Path) -> Runtime:
    def synchronize(sync: Any) -> None:
        sync(PODS, CONTAINERS)

    def update_containers(updates: Any, evictions: Any) -> Any:
        return []

    return Runtime(
        "runtime",
        "1.0",
        synchronize=synchronize,
        update_containers=update_containers,
        socket_path=str(path),
        plugin_path=None,
        registration_timeout=LONG,
        request_timeout=LONG,
    )


class Command:
    """The command as a process."""

    def __init__(self, *arguments: object, stdout: Any = subprocess.PIPE) -> None:
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
        environment.pop("NO_COLOR", None)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nri_sync", "events", *map(str, arguments)],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.communicate()

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def lines_to(self, text: str) -> list[str]:
        lines = [self.line()]
        while text not in lines[-1]:
            assert lines[-1], lines
            lines.append(self.line())
        return lines

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=LONG)
        return self.process.returncode, errors


def connected(runtime: Runtime) -> None:
    assert runtime.wait_for_plugins(lambda names: NAME in names, timeout=LONG)


def test_lines_for_people(runtime: Runtime, path: Path) -> None:
    with Command("--socket", path) as command:
        connected(runtime)
        runtime.create_container(PODS[0], CONTAINERS[0])
        runtime.stop_pod_sandbox(PODS[1])
        lines = [line.partition("  ")[2] for line in command.lines_to("StopPodSandbox")]
        assert command.interrupt() == (128 + signal.SIGINT, "")
    assert lines == [
        "connected            to runtime 1.0",
        "Synchronize          default/web  10.0.0.7",
        "Synchronize          kube-system/dns",
        "Synchronize          default/web:nginx  running  pid 4242  docker.io/library/nginx:1.29",
        "CreateContainer      default/web:nginx  running  pid 4242  docker.io/library/nginx:1.29",
        "StopPodSandbox       kube-system/dns",
    ]


def test_json_lines(runtime: Runtime, path: Path) -> None:
    with Command("--socket", path, "-o", "json") as command:
        connected(runtime)
        found = [json.loads(line) for line in command.lines_to('"nginx"')]
    assert [value["event"] for value in found] == ["connected"] + 3 * ["Synchronize"]
    assert found[1]["pod"]["labels"] == {"app": "web"}
    assert found[3]["container"]["image"]["name"] == "docker.io/library/nginx:1.29"
    assert found[3]["pod"]["name"] == "web"


def test_yaml_documents(runtime: Runtime, path: Path) -> None:
    with Command("--socket", path, "-o", "yaml", "-n", "kube-*") as command:
        connected(runtime)
        runtime.run_pod_sandbox(PODS[1])
        runtime.remove_pod_sandbox(PODS[1])
        text = "\n".join(command.lines_to("event: RemovePodSandbox"))
    documents = list(yaml.safe_load_all(text))
    assert [document["event"] for document in documents] == [
        "connected", "Synchronize", "RunPodSandbox", "RemovePodSandbox",
    ]  # fmt: skip
    assert documents[1]["pod"]["namespace"] == "kube-system"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-n", "default"], ["RunPodSandbox default/web", "StopPodSandbox default/web"]),
        (["-l", "app=dns"], ["RunPodSandbox kube-system/dns", "StopPodSandbox kube-system/dns"]),
        (["-p", "w*"], ["RunPodSandbox default/web", "StopPodSandbox default/web"]),
        (
            ["-e", "stoppodsandbox"],
            ["StopPodSandbox default/web", "StopPodSandbox kube-system/dns"],
        ),
    ],
)
def test_filters(runtime: Runtime, path: Path, options: list[str], expected: list[str]) -> None:
    with Command("--socket", path, *options, "-o", "json") as command:
        connected(runtime)
        for pod in PODS:
            runtime.run_pod_sandbox(pod)
            runtime.stop_pod_sandbox(pod)
        lines = command.lines_to(expected[-1].partition("/")[2] + '"')
        while len([line for line in lines if '"Synchronize"' not in line]) < 1 + len(expected):
            lines.append(command.line())
    found = [json.loads(line) for line in lines]
    seen = [
        f"{value['event']} {value['pod']['namespace']}/{value['pod']['name']}"
        for value in found
        if value["event"] not in ("connected", "Synchronize")
    ]
    assert seen == expected


def test_the_command_reconnects(path: Path) -> None:
    # The command ends if there is no runtime at its first attempt.
    with make_runtime(path) as runtime, Command("--socket", path) as command:
        for again in (False, True):
            if again:
                runtime.start()
            connected(runtime)
            runtime.stop()
            # Before that, the command may have failed to connect, which is also a line.
            command.lines_to("connected            to runtime 1.0")
            assert "the runtime was stopped or restarted" in command.lines_to("disconnected")[-1]


def test_without_reconnecting_the_command_ends(path: Path) -> None:
    with make_runtime(path) as runtime, Command("--socket", path, "--no-reconnect") as command:
        connected(runtime)
        runtime.stop()
        _, errors = command.process.communicate(timeout=LONG)
    assert command.process.returncode == ExitCode.LOST
    assert errors.startswith("nri-sync events: plugin 99-events: ")
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "version", "release"),
    [
        ("containerd", "1.7.28-0ubuntu1~24.04.1", "v0.8.0"),
        ("containerd", "v2.1.5-k3s1", "v0.8.0"),
        ("cri-o", "1.33.4-2.rhaos4.20.el9", "v0.9.0"),
        ("containerd", "v2.2.1", "v0.11.0"),
        ("containerd", "v2.4.2", "v0.12.5"),
    ],
)
@pytest.mark.parametrize("events", ["all", "pod", "runpodsandbox"])
def test_groups_of_events_on_common_runtimes(
    path: Path, name: str, version: str, release: str, events: str
) -> None:
    with (
        FakeRuntime(name, version, nri_version=release, socket_path=str(path)) as runtime,
        Command("--socket", path, "--event", events) as command,
    ):
        runtime.wait_for(lambda: NAME in runtime.plugins, timeout=LONG)
        runtime.run_pod(make_pod("web"))
        lines = command.lines_to("RunPodSandbox")
        assert not [line for line in lines if "disconnected" in line]


def test_an_event_named_by_itself_that_the_runtime_lacks(path: Path) -> None:
    with (
        FakeRuntime(version="v1.7.28", nri_version="v0.8.0", socket_path=str(path)),
        Command("--socket", path, "--event", "pod,updatepodsandbox") as command,
    ):
        _, errors = command.process.communicate(timeout=LONG)
    assert command.process.returncode == ExitCode.LOST
    assert "containerd v1.7.28 (NRI v0.8.0) does not have" in errors
    assert "UpdatePodSandbox" in errors


def test_no_runtime(path: Path) -> None:
    with Command("--socket", path) as command:
        _, errors = command.process.communicate(timeout=LONG)
    assert command.process.returncode == ExitCode.UNREACHABLE
    assert "is the runtime running" in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["-e", "createcontiner"], "--event: "),
        (["-l", "app="], ""),
        (["-l", "=x"], "--selector: "),
        (["--idx", "7"], "index"),
    ],
)
def test_wrong_options(path: Path, options: list[str], text: str) -> None:
    with Command("--socket", path, *options) as command:
        _, errors = command.process.communicate(timeout=LONG)
    assert command.process.returncode == (ExitCode.USAGE if text else ExitCode.UNREACHABLE), errors
    assert text in errors
    assert "Traceback" not in errors


class Screen:
    """Collects the output on a terminal, on a thread: a command blocks when nothing reads its terminal."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self._text = b""
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the command has ended
            while data := os.read(self._terminal, 65536):
                with self._changed:
                    self._text += data
                    self._changed.notify_all()

    def wait_for(self, *words: bytes) -> None:
        with self._changed:
            assert self._changed.wait_for(
                lambda: all(word in self._text for word in words), LONG
            ), self._text

    def close(self) -> None:
        """Blocks until the command has ended."""
        self._thread.join(LONG)
        os.close(self._terminal)


def test_live_on_a_terminal(runtime: Runtime, path: Path) -> None:
    main, terminal = pty.openpty()
    with (
        contextlib.closing(Screen(main)) as screen,
        Command("--socket", path, "--live", stdout=terminal) as command,
    ):
        os.close(terminal)
        connected(runtime)
        runtime.create_container(PODS[0], CONTAINERS[0])
        # The alternate screen: the terminal's content returns at the end.
        screen.wait_for(
            b"\x1b[?1049h", b"NAMESPACE/POD", b"default/web", b"nginx", b"kube-system/dns",
            b"CreateContainer", b"4242",
        )  # fmt: skip
        runtime.remove_container(PODS[0], CONTAINERS[0])
        code, errors = command.interrupt()
    assert (code, errors) == (128 + signal.SIGINT, "")
