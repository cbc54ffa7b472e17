"""One definition of a program, and every way to run it: each way gives the plugin the same environment."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.cli.loading import load_program
from nri_sync.errors import ConfigError, PluginError, StartError
from nri_sync.kit.program.definition import Unusable
from nri_sync.testing import FakeRuntime, make_container, make_pod
from nri_sync.testing.manifests import load
from nri_sync.testing.recordings.files import Recorder
from nri_sync.testing.recordings.proxy import Proxy
from nri_sync.testing.recordings.replaying import replay
from nri_sync.testing.simulation import SimulatedPlugin, simulate
from tests.kit.programs import ROOT, program, serving
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG, POD

__all__: list[str] = []

# The plugin writes its calls to a file, because some ways run it in another process.
PLUGIN = """
from dataclasses import dataclass
from pathlib import Path
import nri_sync
from nri_sync import api, kit

LOG = Path(__file__).with_name("log")

def say(*words):
    with LOG.open("a") as file:
        print(*words, file=file)

@dataclass
class Config:
    label: str = "none"

class Plugin:
    def __init__(self, inventory, queue):
        self.inventory, self.queue = inventory, queue

    def on_config(self, config):
        if config.label == "refused":
            raise ValueError("label: not today")
        say("config", config.label)

    def on_connected(self, stub):
        say("connected", stub is self.stub)

    def create_container(self, pod, container):
        known = pod.id in self.inventory.snapshot().pods
        self.queue.put(api.Update("other").set_cpu(shares=10))
        return api.Adjustment().add_env("LABEL", f"{self.config.label} {known}")

    def on_stopping(self):
        say("stopping", self.stub.started)

    def on_stop(self):
        say("stopped", self.stub.started)

class Counted(nri_sync.Interceptor):
    def serve(self, event, request, context, proceed):
        if event == "CreateContainer":
            say("seen", event)
        return proceed(request, context)

def program():
    inventory, queue = kit.Inventory(), kit.UpdateQueue()
    plugin = kit.chain(inventory, Plugin(inventory, queue))
    return kit.Program(
        plugin, config=Config, name="alike", idx="42", interceptors=[queue, Counted()]
    )

if __name__ == "__main__":
    kit.main(program())
"""
POD_YAML = """
apiVersion: v1
kind: Pod
metadata: {name: web}
spec: {containers: [{name: nginx, image: nginx}]}
"""
SEEN = ["config blue", "connected True", "seen CreateContainer", "stopping True", "stopped False"]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "alike.py").write_text(PLUGIN)
    (tmp_path / "config.yaml").write_text("label: blue\n")
    (tmp_path / "pod.yaml").write_text(POD_YAML)
    return tmp_path


def log(place: Path) -> list[str]:
    """Return the lines in order; a container that was created several times counts once."""
    return list(dict.fromkeys((place / "log").read_text().splitlines()))


def loaded(place: Path) -> kit.Program:
    return load_program(str(place / "alike.py"))


def as_process(place: Path, socket_dir: Path, *command: str) -> str:
    """Return the answer of the plugin as a process that SIGTERM ends."""
    socket = str(socket_dir / "nri.sock")
    with serving(socket_dir) as runtime:
        process = subprocess.Popen(
            [sys.executable, *command, "--socket", socket, "--config", str(place / "config.yaml")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        try:
            assert runtime.wait_for_plugins(lambda names: "42-alike" in names, LONG)
            # on_connected runs after Synchronize, at the same time as the first events.
            eventually(lambda: "connected True" in log(place))
            runtime.run_pod_sandbox(POD)
            container = api.Container(id="c", pod_sandbox_id=POD.id, name="c")
            [env] = runtime.create_container(POD, container).adjust.env
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONG) == 0
        finally:
            process.kill()
            process.wait()
    return env.value


class TestAlike:
    def test_main(self, place: Path, socket_dir: Path) -> None:
        assert as_process(place, socket_dir, str(place / "alike.py")) == "blue True"
        assert log(place) == SEEN

    def test_the_command_run(self, place: Path, socket_dir: Path) -> None:
        command = ("-m", "nri_sync", "run", str(place / "alike.py"))
        assert as_process(place, socket_dir, *command) == "blue True"
        assert log(place) == SEEN

    def test_simulate(self, place: Path) -> None:
        plugin = SimulatedPlugin(loaded(place), "alike", config_path=str(place / "config.yaml"))
        simulation = simulate([plugin], load(place / "pod.yaml"), request_timeout=20.0)
        [created] = [e for e in simulation.pods[0].events if e.name == "CreateContainer"]
        assert created.created is not None
        assert [c.after for c in created.created.changes] == ["blue True"]
        assert log(place) == SEEN

    def test_the_test_kit(self, place: Path, nri_plugin: Any, nri_runtime: FakeRuntime) -> None:
        with nri_runtime.run_plugin(loaded(place), config="label: blue") as stub:
            assert stub.name == "42-alike"
            pod = make_pod("web")
            nri_runtime.run_pod(pod)
            result = nri_runtime.create_container(pod, make_container(pod))
            assert result.env == {"LABEL": "blue True"}
            nri_runtime.wait_for(lambda: nri_runtime.updates)
        assert log(place) == SEEN

    def test_replay(self, place: Path) -> None:
        recording = recorded(place)
        differences = replay(recording, loaded(place), config_path=place / "config.yaml")
        [difference] = [d for d in differences if d.what.startswith("CreateContainer")]
        assert "none" in difference.recorded
        assert "blue True" in difference.now
        assert log(place) == SEEN


def recorded(place: Path) -> Path:
    """Return the messages between a runtime and a plugin with that name and index."""
    path = place / "recording.jsonl"
    with FakeRuntime() as runtime, path.open("w") as file:
        listen = runtime.socket_path + ".trace"
        with Proxy(listen, runtime.socket_path) as proxy:
            stub = nri_sync.Stub(Recorded(), name="alike", idx="42", socket_path=listen)
            pod = make_pod("web")
            with stub:
                runtime.wait_for(lambda: runtime.plugins)
                runtime.run_pod(pod)
                runtime.create_container(pod, make_container(pod))
            runtime.wait_for(lambda: not runtime.plugins)
            proxy.close()
            recorder = Recorder(file, socket=listen)
            for entry in proxy:
                recorder.write(entry)
    return path


class Recorded:
    """An interceptor for the same events as the plugin."""

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        pass

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_env("LABEL", "none")


class Labels:
    """A plugin whose configuration is any text."""

    def __init__(self) -> None:
        self.config = "before"
        self.given: list[str] = []

    def on_config(self, config: str) -> None:
        if config == "refused":
            raise ValueError("not today")
        self.given.append(config)

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        pass


class WithConfig(Labels):
    Config = staticmethod(lambda data: data.get("label", "none"))


class TestConfiguration:
    def test_an_object_in_a_test(self, nri_runtime: FakeRuntime) -> None:
        plugin: Any = Labels()
        with nri_runtime.run_plugin(plugin, config=("a", "tuple")):
            assert plugin.given == [("a", "tuple")]
            assert plugin.config == ("a", "tuple")

    def test_an_object_that_the_plugin_refuses(self, nri_runtime: FakeRuntime) -> None:
        class Refusing(Labels):
            def on_config(self, config: Any) -> None:
                raise ValueError("not today")

        with pytest.raises(ConfigError, match=r"config=: not today"):
            kit.Program(Refusing).assemble(config=1)

    def test_a_text_of_no_class(self, nri_plugin: Callable[..., object]) -> None:
        with pytest.raises(Unusable, match=r"Labels has no configuration; name its class"):
            nri_plugin(Labels(), config="label: blue")

    def test_a_text_for_the_attribute(self, nri_plugin: Callable[..., object]) -> None:
        plugin = WithConfig()
        nri_plugin(plugin, config="label: blue")
        assert (plugin.given, plugin.config) == (["blue"], "blue")

    def test_a_text_that_the_plugin_refuses(self, nri_plugin: Callable[..., object]) -> None:
        with pytest.raises(StartError, match="not today"):
            nri_plugin(WithConfig(), config="label: refused")

    def test_a_file_for_a_plugin_without_a_configuration(self, tmp_path: Path) -> None:
        with pytest.raises(Unusable, match=r"--config .*/c\.yaml: Labels has no configuration"):
            kit.Program(Labels).assemble(config_path=tmp_path / "c.yaml")

    def test_a_chain_has_the_first_configuration_of_its_plugins(self) -> None:
        chained = kit.chain(Labels(), kit.chain(WithConfig()))
        assert kit.Program(chained).config is WithConfig.Config

    def test_only_a_function_may_add_a_configuration(self) -> None:
        assert kit.Program(Labels).has_no_configuration
        assert not kit.Program(WithConfig).has_no_configuration
        assert not kit.Program(lambda: WithConfig()).has_no_configuration


class TestProgram:
    def test_making_a_program_makes_no_plugin(self) -> None:
        program = kit.Program(lambda: pytest.fail("made"), name="x", idx=7)
        assert program.idx == "07"

    def test_each_assembly_has_a_plugin_of_its_own(self) -> None:
        program = kit.Program(functools.partial(Labels))
        assert program.assemble().plugin is not program.assemble().plugin

    def test_an_unknown_option_is_refused(self) -> None:
        with pytest.raises(
            TypeError, match=r"Program\(\) has no option 'confg'; did you mean config"
        ):
            kit.Program(Labels, confg=1)  # type: ignore[call-arg]

    def test_run_takes_no_other_argument_with_a_program(self) -> None:
        with pytest.raises(
            TypeError, match=r"run\(\) takes no other argument with a Program; pass config"
        ):
            kit.run(kit.Program(Labels), config=str)

    def test_a_hook_that_is_misspelt(self) -> None:
        class Misspelt(Labels):
            def on_stoping(self) -> None:
                pass

        with pytest.raises(
            PluginError, match="on_stoping is never called; did you mean on_stopping"
        ):
            kit.Program(Misspelt).assemble()

    def test_both_of_two_functions_for_the_end(self, nri_runtime: FakeRuntime) -> None:
        ended: list[str] = []
        program = kit.Program(Labels, on_close=lambda stub: ended.append("program"))
        with nri_runtime.run_plugin(program, on_close=lambda stub: ended.append("test")) as stub:
            nri_runtime.disconnect(stub)
            nri_runtime.wait_for(lambda: len(ended) == 2)
        assert sorted(ended) == ["program", "test"]


class TestStopping:
    MAIN = """
class Stopping(Plugin):
    def on_stopping(self):
        say("stopping")
        {}

kit.main(Stopping, config=Config, name="test", idx=10)
"""

    def test_events_are_served_and_updates_go_out(self, socket_dir: Path) -> None:
        gate = socket_dir / "gate"
        os.mkfifo(gate)
        main = self.MAIN.format(
            'self.stub.update_containers([api.Update("c").set_cpu(shares=2)]); say("updated"); '
            f"open({str(gate)!r}).read()"
        )
        asked: list[api.ContainerUpdate] = []

        def update(updates: list[api.ContainerUpdate], evictions: Any) -> list[Any]:
            asked.extend(updates)
            return []

        options = ("--grace", "20s")
        with (
            serving(socket_dir, update_containers=update) as runtime,
            program(socket_dir, *options, main=main) as plugin,
        ):
            assert runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)
            plugin.signal(signal.SIGTERM)
            plugin.expect("updated")
            container = api.Container(id="c", pod_sandbox_id=POD.id, name="c")
            adjust = runtime.create_container(POD, container).adjust
            assert adjust.annotations["value"] == "default"
            gate.write_text("go on")
            assert plugin.wait() == kit.ExitCode.OK
            assert plugin.lines.index("updated") < plugin.lines.index("stopped")
        assert [update.container_id for update in asked] == ["c"]

    def test_within_the_grace(self, socket_dir: Path) -> None:
        main = self.MAIN.format("threading.Event().wait()")
        options = ("--grace", "0.2s")
        with serving(socket_dir) as runtime, program(socket_dir, *options, main=main) as plugin:
            assert runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == kit.ExitCode.OK
            assert "on_stopping has not returned within the grace of 0.2 s" in plugin.output
            assert "stopped" in plugin.lines

    def test_an_exception_of_on_stopping_crashes_the_program(self, socket_dir: Path) -> None:
        main = self.MAIN.format("1 / 0")
        with serving(socket_dir) as runtime, program(socket_dir, main=main) as plugin:
            assert runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == kit.ExitCode.CRASHED
            assert "ZeroDivisionError: division by zero" in plugin.output
            assert "stopped" in plugin.lines

    def test_on_stopping_is_not_called_without_a_session(self, socket_dir: Path) -> None:
        main = self.MAIN.format("pass")
        with program(socket_dir, "--retry-first", main=main) as plugin:
            plugin.expect("connecting to")
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == kit.ExitCode.OK
            assert "stopping" not in plugin.lines
            assert "stopped" in plugin.lines
