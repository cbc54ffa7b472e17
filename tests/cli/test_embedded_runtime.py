"""``nri-sync runtime`` as a separate process, with plugins of this process and of others."""

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

import nri_sync
from nri_sync import api
from nri_sync.cli.errors import ExitCode
from nri_sync.testing import FakeRuntime
from tests.kit.programs import ROOT
from tests.listening import is_listening
from tests.plugin.harness import eventually

__all__: list[str] = []

LONG = 20.0
POD = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: nginx, image: nginx}]}
"""
LAUNCHED = """#!{python}
from nri_sync import api

class Plugin:
    def configure(self, config, runtime, version):
        print("configured with", config, flush=True)
        self.value = config.strip()

    def create_container(self, pod, container):
        return api.Adjustment().add_env("VALUE", self.value)

import nri_sync
nri_sync.Stub(Plugin()).run()
"""


class Plugin:
    def __init__(self) -> None:
        self.told: list[int] = []
        self.created = threading.Semaphore(0)

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        self.told.append(len(containers))

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.created.release()
        return api.Adjustment().add_env("A", "b")


@contextlib.contextmanager
def serving(place: Path, *options: str, **more: Any) -> Iterator[subprocess.Popen[str]]:
    (place / "pod.yaml").write_text(POD)
    socket = str(place / "s")
    process = subprocess.Popen(
        [
            sys.executable, "-m", "nri_sync", "runtime", "--socket", socket, "-f", str(place / "pod.yaml"),
            "--request-timeout", f"{LONG:g}s",  # a plugin may answer late on a busy machine
            *options,
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, **more,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def documents(process: subprocess.Popen[str], until: str) -> list[dict[str, Any]]:
    """The documents up to an event of that name."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(json.loads(line))
        if until in (found[-1].get("event"), found[-1].get("name")):
            return found
    raise AssertionError(f"{until!r} has not come, but {found}")


def ended(process: subprocess.Popen[str], number: signal.Signals = signal.SIGTERM) -> str:
    process.send_signal(number)
    output, _ = process.communicate(timeout=LONG)
    assert process.returncode == ExitCode.OK, output
    return output


def test_pods_for_a_plugin_that_comes_and_for_a_signal(socket_dir: Path) -> None:
    plugin = Plugin()
    with serving(socket_dir, "-o", "json") as process:
        documents(process, "listening")
        with nri_sync.Stub(plugin, name="p", idx="10", socket_path=str(socket_dir / "s")):
            seen = documents(process, "CreateContainer")
            [call] = [call for call in seen[-1]["calls"] if call["event"] == "CreateContainer"]
            assert (call["plugin"], seen[-1]["container"]) == ("10-p", "nginx")
            assert [c["after"] for c in seen[-1]["created"]["changes"]] == ["b"]
            process.send_signal(signal.SIGUSR1)
            names = [each.get("name") for each in documents(process, "CreateContainer")]
            assert names[-3:] == ["RemovePodSandbox", "RunPodSandbox", "CreateContainer"]
        ended(process)
        assert not (socket_dir / "s").exists()


def test_a_restart_keeps_the_pods(socket_dir: Path) -> None:
    plugin = Plugin()
    with serving(socket_dir, "-o", "json") as process:
        documents(process, "listening")
        path = str(socket_dir / "s")
        lost = threading.Event()
        stub = nri_sync.Stub(
            plugin, name="p", idx="10", socket_path=path, on_close=lambda _: lost.set()
        )
        with stub:
            documents(process, "StartContainer")
            process.send_signal(signal.SIGHUP)
            assert lost.wait(LONG)
            documents(process, "listening")
            stub.start()
            assert "received 1 pods, 1 containers" in documents(process, "connected")[-1]["note"]
        assert plugin.told == [0, 1]
        ended(process, signal.SIGINT)


def test_again_and_again(socket_dir: Path) -> None:
    plugin = Plugin()
    with serving(socket_dir, "--interval", "0.05s") as process:
        eventually(lambda: is_listening(socket_dir / "s"))
        with nri_sync.Stub(plugin, name="p", idx="10", socket_path=str(socket_dir / "s")):
            for _ in range(3):
                assert plugin.created.acquire(timeout=LONG)
        ended(process)


def test_unsolicited_requests(socket_dir: Path) -> None:
    with serving(socket_dir) as process:
        eventually(lambda: is_listening(socket_dir / "s"))
        seen: list[str] = []

        class Asking(Plugin):
            def post_start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
                seen.append(container.id)

        with nri_sync.Stub(Asking(), name="p", idx="10", socket_path=str(socket_dir / "s")) as stub:
            eventually(lambda: seen)
            stub.update_containers([api.Update(seen[0]).set_cpu(shares=77)])
        output = ended(process)
    assert "a plugin requests:" in output
    assert "77" in output


def test_a_launched_plugin_with_its_configuration(socket_dir: Path) -> None:
    plugins, configuration = socket_dir / "plugins", socket_dir / "conf.d"
    plugins.mkdir()
    configuration.mkdir()
    launched = plugins / "20-env"
    launched.write_text(LAUNCHED.format(python=sys.executable))
    launched.chmod(0o755)
    (configuration / "env.conf").write_text("blue\n")
    options = ("--plugins", str(plugins), "--plugin-config", str(configuration))
    with serving(socket_dir, *options, "-o", "yaml") as process:
        assert process.stdout is not None
        text = ""
        for line in process.stdout:
            text += line
            if "after: blue" in line:
                break
        # A thread of the command logs the output of the plugin. It has logged all of it at the end.
        text += ended(process)
    assert "20-env: configured with blue" in text


def test_keys(socket_dir: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        with serving(socket_dir, stdin=theirs) as process:
            assert process.stdout is not None
            output = ""
            while "another terminal" not in output:
                output += process.stdout.readline()
            os.write(ours, b"p")
            os.write(ours, b"rq")
            output += process.communicate(timeout=LONG)[0]
    finally:
        os.close(ours)
        os.close(theirs)
    assert process.returncode == ExitCode.OK
    assert "no plugin is connected" in output
    assert output.count("listening on") == 2


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--plugins", "nowhere"), ExitCode.USAGE, "--plugins nowhere: is no directory"),
        (("--interval", "0s"), ExitCode.USAGE, "must be more than 0"),
        (("-f", "none.yaml"), ExitCode.INPUT, "none.yaml"),
    ],
)
def test_wrong_options(
    socket_dir: Path, options: tuple[str, ...], code: ExitCode, text: str
) -> None:
    with serving(socket_dir, *options) as process:
        output, _ = process.communicate(timeout=LONG)
        assert (process.returncode, text in output) == (code, True), output


def test_a_socket_that_another_runtime_listens_on(socket_dir: Path) -> None:
    with FakeRuntime(socket_path=str(socket_dir / "s")), serving(socket_dir) as process:
        output, _ = process.communicate(timeout=LONG)
    assert process.returncode == ExitCode.UNREACHABLE
    assert output.startswith("nri-sync runtime: ")
    assert f"{socket_dir}/s" in output
    assert "Traceback" not in output
