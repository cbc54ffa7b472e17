"""Plugins as programs: each way to begin, each way to end, and the messages for users."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import json
import re
import signal
import stat
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from nri_sync import Backoff, Interceptor, api
from nri_sync.errors import StubClosed
from nri_sync.kit import ExitCode, Options, add_options, run
from nri_sync.net.sockets import listen
from nri_sync.runtime import Runtime
from tests.kit.programs import MAIN, PLUGIN, ROOT, Program, program, serving
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG, POD, on_thread
from tests.test_docs import blocks

__all__: list[str] = []


def create(runtime: Runtime, name: str = "c") -> str:
    """Create a container; returns the plugin's annotation."""
    container = api.Container(id=name, pod_sandbox_id=POD.id, name=name)
    return runtime.create_container(POD, container).adjust.annotations["value"]


def registered(runtime: Runtime, name: str = "10-test") -> None:
    assert runtime.wait_for_plugins(lambda names: name in names, LONG)


def error_of(plugin: Program) -> str:
    """Return the message of the line with the reason of the end."""
    found = re.findall(
        r"^\S+ CRITICAL nri_sync\.kit\.program: (.*(?:\n(?!\S+ [A-Z]+ ).*)*)", plugin.output, re.M
    )
    assert len(found) == 1, plugin.output
    return str(found[0])


class TestTheEnd:
    """One test for each exit code."""

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stopped_by_a_signal(self, number: signal.Signals, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            plugin.signal(number)
            assert plugin.wait() == ExitCode.OK
            assert f"{number.name}: stopping" in plugin.output
            assert plugin.lines.count("stopped") == 1

    def test_stopped_by_the_plugin_itself(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            assert create(runtime, "stop") == "default"
            assert plugin.wait() == ExitCode.OK

    def test_crashed_in_the_function_that_makes_the_plugin(self, socket_dir: Path) -> None:
        main = 'def make():\n    raise RuntimeError("boom")\n\nkit.main(make, name="test", idx=10)'
        with program(socket_dir, main=main) as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin).startswith("RuntimeError: boom\n")
            assert 'raise RuntimeError("boom")' in plugin.output

    def test_crashed_in_a_callback(self, socket_dir: Path) -> None:
        main = f"Plugin.on_connected = lambda self, stub: 1 / 0\n{MAIN}"
        with serving(socket_dir), program(socket_dir, main=main) as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin).startswith("ZeroDivisionError: division by zero\n")
            assert "stopped" in plugin.lines

    def test_crashed_in_its_configure(self, socket_dir: Path) -> None:
        main = f"Plugin.configure = lambda self, config, runtime, version: 1 / 0\n{MAIN}"
        with serving(socket_dir), program(socket_dir, main=main) as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin) == (
                "plugin 10-test: configure failed: ZeroDivisionError('division by zero')"
            )

    def test_no_plugin(self, socket_dir: Path) -> None:
        with program(socket_dir, main='kit.main(object, name="test", idx=10)') as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin).startswith("the plugin object has no handlers; it needs")
            assert "Traceback" not in plugin.output

    def test_wrong_usage(self, socket_dir: Path) -> None:
        with program(socket_dir, "--grace", "soon") as plugin:
            assert plugin.wait() == ExitCode.USAGE
            assert plugin.lines[-1] == (
                "plugin.py: error: argument --grace: 'soon' is not a duration"
                ' such as "1.5s", "2m30s" or "300ms"'
            )

    def test_without_an_index(self, socket_dir: Path) -> None:
        with program(socket_dir, main="kit.main(Plugin)") as plugin:
            assert plugin.wait() == ExitCode.USAGE
            assert error_of(plugin).startswith("the plugin has no index: ")

    def test_an_option_that_the_system_refuses(self, socket_dir: Path) -> None:
        with program(socket_dir, "--health-file", "missing/health") as plugin:
            assert plugin.wait() == ExitCode.USAGE
            assert error_of(plugin) == "--health-file missing/health: No such file or directory"

    def test_a_configuration_for_a_plugin_without(self, socket_dir: Path) -> None:
        main = 'kit.main(Plugin, name="test", idx=10)'
        with program(socket_dir, "--config", "a.toml", main=main) as plugin:
            assert plugin.wait() == ExitCode.USAGE
            assert plugin.lines[-1].endswith("argument --config: this plugin has no configuration")

    def test_no_runtime(self, socket_dir: Path) -> None:
        with program(socket_dir) as plugin:
            assert plugin.wait() == ExitCode.UNREACHABLE
            assert error_of(plugin) == (
                f"plugin 10-test: cannot connect: {socket_dir}/nri.sock: No such file or directory;"
                " is the runtime running, with NRI enabled, and is this its nri socket path?"
            )

    def test_rejected(self, socket_dir: Path) -> None:
        with listen(f"{socket_dir}/nri.sock") as listener, program(socket_dir) as plugin:
            listener.accept()[0].close()
            assert plugin.wait() == ExitCode.REJECTED
            assert "before it answered RegisterPlugin" in error_of(plugin)

    def test_lost(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir, "--no-reconnect") as plugin:
            registered(runtime)
            runtime.stop()
            assert plugin.wait() == ExitCode.LOST
            assert "while the plugin was serving; the runtime was stopped" in error_of(plugin)
            assert "disconnected ConnectionLost" in plugin.lines
            assert "Traceback" not in plugin.output

    def test_a_second_signal_ends_the_program_at_once(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir, "--grace", "1m") as plugin:
            registered(runtime)
            on_thread(lambda: create(runtime, "stuck"))
            plugin.expect("stuck")
            plugin.signal(signal.SIGTERM)
            plugin.expect("SIGTERM: stopping")
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == -signal.SIGTERM
            assert "SIGTERM again: ending at once" in plugin.output

    def test_handlers_in_flight_finish(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            outcome = on_thread(lambda: create(runtime, "slow"))
            plugin.expect("busy")
            plugin.signal(signal.SIGTERM)
            assert outcome() == "default"
            assert plugin.wait() == ExitCode.OK

    def test_not_for_longer_than_the_grace(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir, "--grace", "50ms") as plugin:
            registered(runtime)
            on_thread(lambda: create(runtime, "stuck"))
            plugin.expect("stuck")
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == ExitCode.OK

    def test_interceptors_are_closed_while_there_is_a_session(self, socket_dir: Path) -> None:
        main = """
import nri_sync

class Queue(nri_sync.Interceptor):
    def attach(self, stub):
        self.stub = stub
    def close(self, timeout):
        say("closed", self.stub.started, round(timeout / 600))

kit.main(Plugin, config=Config, name="test", idx=10, interceptors=[Queue()])
"""
        with (
            serving(socket_dir) as runtime,
            program(socket_dir, "--grace", "70m", main=main) as plugin,
        ):
            registered(runtime)
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == ExitCode.OK
            told = [line for line in plugin.lines if line.startswith(("closed", "stopped"))]
            assert told == ["closed True 7", "closed False 0", "stopped"]

    def test_stopped_during_the_wait_for_a_runtime(self, socket_dir: Path) -> None:
        with program(socket_dir, "--retry-first") as plugin:
            plugin.expect("next attempt in")
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == ExitCode.OK

    def test_an_option_shows_the_traceback(self, socket_dir: Path) -> None:
        for flags in (["--traceback"], ["-vv"]):
            with program(socket_dir, *flags) as plugin:
                assert plugin.wait() == ExitCode.UNREACHABLE
                assert "Traceback" in plugin.output
                assert "FileNotFoundError" in plugin.output


class TestConnecting:
    def test_comes_back_when_the_runtime_does(self, socket_dir: Path) -> None:
        with program(socket_dir, "--retry-first") as plugin:
            plugin.expect("disconnected StartError")
            for _ in range(2):
                with serving(socket_dir) as runtime:
                    plugin.expect("connected 10-test")
                    registered(runtime)
                    assert create(runtime) == "default"
                plugin.expect("disconnected ConnectionLost")

    def test_a_loss_after_the_first_session_is_no_failure_of_the_first_start(
        self, socket_dir: Path
    ) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            runtime.stop()
            plugin.expect("disconnected ConnectionLost")
            plugin.expect("disconnected StartError")

    def test_identity(self, socket_dir: Path) -> None:
        environ = {"NRI_PLUGIN_NAME": "variable", "NRI_PLUGIN_IDX": "20"}
        with serving(socket_dir) as runtime:
            with program(socket_dir, environ=environ):
                registered(runtime, "20-variable")
            with program(socket_dir, "--name", "flag", "--idx", "30", environ=environ):
                registered(runtime, "30-flag")

    def test_the_socket(self, socket_dir: Path) -> None:
        environ = {"NRI_SYNC_SOCKET": "/wrong"}
        flags = ["--socket", f"{socket_dir}/nri.sock"]
        with serving(socket_dir) as runtime, program(socket_dir, *flags, environ=environ):
            registered(runtime)


def problems(plugin: Program) -> list[str]:
    return error_of(plugin).splitlines()


class TestConfiguration:
    def test_defaults(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            plugin.expect("config default")
            assert create(runtime) == "default"

    @pytest.mark.parametrize("by", ["flag", "variable"])
    def test_a_file(self, by: str, socket_dir: Path) -> None:
        (socket_dir / "test.json").write_text('{"value": "x"}')
        flags = ["--config", "test.json"] if by == "flag" else []
        environ = {"NRI_SYNC_CONFIG": "test.json" if by == "variable" else "wrong"}
        with serving(socket_dir) as runtime, program(socket_dir, *flags, environ=environ) as plugin:
            registered(runtime)
            plugin.expect("config x")
            assert create(runtime) == "x"

    @pytest.mark.parametrize(
        ("name", "text", "told"),
        [
            ("c.json", None, ["c.json: cannot be read: No such file or directory"]),
            ("c.json", '{"value" "x"}', ["c.json: is not JSON: line 1, column 10: expecting ':' delimiter"]),
            ("c.json", "[]", ["c.json: expected a mapping, not a list of 0"]),
            ("c.yaml", "vlaue: x\ndevices: [{path: 5}]\n",
             ['c.yaml: vlaue: unknown key; did you mean "value"?',
              "c.yaml: devices[0].path: expected text, not 5; write it in quotes"]),
            ("c.yaml", "devices:\n- {}\n", ["c.yaml: devices[0].path: missing; expected text"]),
            ("c.yaml", "value: refused\n", ["c.yaml: value: not today"]),
        ],
    )  # fmt: skip
    def test_a_wrong_file(
        self, name: str, text: str | None, told: list[str], socket_dir: Path
    ) -> None:
        if text is not None:
            (socket_dir / name).write_text(text)
        with program(socket_dir, "--config", name) as plugin:
            assert plugin.wait() == ExitCode.CONFIG
            assert [line.strip() for line in problems(plugin)] == told
            assert "Traceback" not in plugin.output

    def test_required_but_not_there(self, socket_dir: Path) -> None:
        source = PLUGIN.replace('value: str = "default"', "value: str")
        with serving(socket_dir), program(socket_dir, source=source) as plugin:
            assert plugin.wait() == ExitCode.CONFIG
            assert error_of(plugin) == (
                "the configuration, which is empty (there is no --config FILE):"
                " value: missing; expected text"
            )
            assert "Traceback" not in plugin.output

    def test_a_class_that_cannot_be_used(self, socket_dir: Path) -> None:
        source = PLUGIN.replace('value: str = "default"', "value: complex = 1j")
        with program(socket_dir, source=source) as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin).startswith(
                "TypeError: Config.value: complex is not supported\n"
            )

    def test_reload(self, socket_dir: Path) -> None:
        path = socket_dir / "test.yaml"
        path.write_text("value: one")
        with serving(socket_dir) as runtime, program(socket_dir, "--config", str(path)) as plugin:
            registered(runtime)
            plugin.expect("config one")
            for text, told in (
                ("value: [", f"{path}: is not YAML: line "),
                ("valeu: two", f'{path}: valeu: unknown key; did you mean "value"?'),
                ("value: refused", f"{path}: value: not today"),
                ("value: bug", "on_config failed"),
            ):
                path.write_text(text)
                plugin.signal(signal.SIGHUP)
                plugin.expect(told)
                plugin.expect(
                    "the former configuration stays in use" if text != "value: bug" else "KeyError"
                )
                assert create(runtime) == "one"
            path.write_text("value: two")
            plugin.signal(signal.SIGHUP)
            plugin.expect("config two")
            eventually(lambda: create(runtime) == "two")
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == ExitCode.OK

    def test_nothing_to_reload(self, socket_dir: Path) -> None:
        with serving(socket_dir) as runtime, program(socket_dir) as plugin:
            registered(runtime)
            plugin.signal(signal.SIGHUP)
            plugin.expect("SIGHUP: there is no configuration file to read again")
            assert create(runtime) == "default"


class TestLaunched:
    """The runtime launches the program, with three variables in the environment, and nothing else."""

    @pytest.fixture
    def plugins(self, socket_dir: Path) -> Path:
        for name in ("plugins", "conf.d"):
            (socket_dir / name).mkdir()
        return socket_dir / "plugins"

    def install(self, plugins: Path, name: str = "10-test", main: str = MAIN) -> None:
        path = plugins / name
        inserted = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        path.write_text(f"#!{sys.executable}\n{inserted}{PLUGIN}\n{main}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)

    def test_with_configuration_and_name_of_the_runtime(
        self, plugins: Path, socket_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO", "nri_sync.runtime.plugin")
        self.install(plugins, "20-other")
        (socket_dir / "conf.d" / "other.conf").write_text("value: sent\n")
        with serving(socket_dir, exit_grace=LONG) as runtime:
            registered(runtime, "20-other")
            assert create(runtime) == "sent"
        # The program ends with the runtime, by itself.
        assert f"exited with status {ExitCode.LOST.value}" in caplog.text
        assert "sending SIGTERM" not in caplog.text
        assert "disconnected ConnectionLost" in caplog.text

    def test_a_wrong_configuration_fails_configure(
        self, plugins: Path, socket_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level("INFO")
        self.install(plugins)
        (socket_dir / "conf.d" / "test.conf").write_text("vlaue: sent\n")
        told = 'the configuration from the runtime: vlaue: unknown key; did you mean "value"?'
        with serving(socket_dir, exit_grace=LONG) as runtime:
            assert runtime.plugins == ()
            eventually(lambda: f"exited with status {ExitCode.CONFIG.value}" in caplog.text)
        of_runtime = [
            record.getMessage()
            for record in caplog.records
            if record.name != "nri_sync.runtime.plugin"
        ]
        assert any(told in message for message in of_runtime), caplog.text
        assert f"nri_sync.kit.program: {told}" in caplog.text
        assert "Traceback" not in caplog.text


class TestThePage:
    """docs/main.md."""

    TEXT = (ROOT / "docs" / "main.md").read_text()

    def test_the_output_is_the_one_in_the_page(self, tmp_path: Path) -> None:
        (tmp_path / "plugin.py").write_text(blocks(self.TEXT, "python")[0].body)
        variables = {
            "PYTHONPATH": str(ROOT),
            "PATH": f"{Path(sys.executable).parent}:/bin:/usr/bin",
        }
        steps = [
            step
            for block in blocks(self.TEXT, "console")
            for step in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]
        ]
        assert len(steps) >= 6
        for step in steps:
            command, _, expected = step.partition("\n")
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env=variables, timeout=LONG, check=False,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            )  # fmt: skip
            printed = f"{done.stdout}exit code {done.returncode}\n"
            assert doctest.OutputChecker().check_output(expected, printed, doctest.ELLIPSIS), (
                f"$ {command}\n{printed}\ninstead of\n{expected}"
            )

    def test_the_page_has_all_options(self) -> None:
        parser = argparse.ArgumentParser(add_help=False)
        add_options(parser, environ={})
        for flags in re.findall(r"^ {2}(-.*?)(?: {2}|$)", parser.format_help(), re.MULTILINE):
            for flag in re.findall(r"(?<!\S)-[\w-]+", flags):
                assert f"`{flag}`" in self.TEXT
        assert set(re.findall(r"\[(NRI_\w+)\]", parser.format_help())) == set(
            re.findall(r"`(NRI_(?:SYNC|PLUGIN)_\w+)`", self.TEXT)
        )

    def test_the_page_has_all_exit_codes(self) -> None:
        shown = re.findall(r"^\| (\d) \| `(\w+)` \|", self.TEXT, re.MULTILINE)
        assert shown == [(str(code.value), code.name) for code in ExitCode]


class TestTheRest:
    def test_help(self, socket_dir: Path) -> None:
        with program(socket_dir, "--help") as plugin:
            assert plugin.wait() == 0
            assert "Does what it is configured to." in plugin.output

    def test_health(self, socket_dir: Path) -> None:
        options = ["--health-address", "127.0.0.1:0", "--health-file", "health"]
        with serving(socket_dir) as runtime, program(socket_dir, *options) as plugin:
            address = plugin.expect("serving probes and metrics on").split()[-1]
            registered(runtime)
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=LONG) as answer:
                assert answer.read().startswith(b"ok: synchronized: ")
            eventually(lambda: "ready: yes" in (socket_dir / "health").read_text())
            plugin.signal(signal.SIGTERM)
            assert plugin.wait() == ExitCode.OK
            assert not (socket_dir / "health").exists()

    def test_logs(self, socket_dir: Path) -> None:
        options = ["--log-format", "json", "--log-level", "warning", "--dump", "createcontainer"]
        with serving(socket_dir) as runtime, program(socket_dir, *options) as plugin:
            registered(runtime)
            create(runtime)
            line = json.loads(plugin.expect('"dump"'))
            assert (line["plugin"], line["event"]) == ("10-test", "CreateContainer")
            plugin.signal(signal.SIGTERM)
            plugin.wait()
            assert "SIGTERM: stopping" not in plugin.output

    def test_hooks_that_would_never_be_called(self, socket_dir: Path) -> None:
        main = f"Plugin.on_stopp = lambda self: None\n{MAIN}"
        with program(socket_dir, main=main) as plugin:
            assert plugin.wait() == ExitCode.CRASHED
            assert error_of(plugin).startswith(
                "Plugin.on_stopp is never called; did you mean on_stop?"
            )

    @pytest.mark.parametrize(("given", "seen"), [(None, 0.001), (0.002, 0.002), (0.0, 0.004)])
    def test_the_switch_interval_during_a_run(
        self, socket_dir: Path, given: float | None, seen: float
    ) -> None:
        class Noting:
            def __setattr__(self, name: str, value: Any) -> None:
                if name == "stub":
                    intervals.append(sys.getswitchinterval())
                    value.stop()

            def create_container(self, pod: object, container: object) -> None: ...

        intervals: list[float] = []
        options = Options("test", "10", f"{socket_dir}/nri.sock", retry_first=True)
        if given is not None:
            options = options._replace(switch_interval=given)
        before = sys.getswitchinterval()
        sys.setswitchinterval(0.004)
        try:
            assert on_thread(lambda: run(Noting(), options))() is ExitCode.OK
            intervals.append(sys.getswitchinterval())
        finally:
            sys.setswitchinterval(before)
        assert intervals == pytest.approx([seen, 0.004])

    def test_in_a_thread_of_an_application(self, socket_dir: Path) -> None:
        """Without signals: the plugin stops its stub."""

        class Stopping:
            stub: Any = None

            def create_container(self, pod: object, container: object) -> None:
                self.stub.stop()

        options = Options(name="test", idx="10", socket=f"{socket_dir}/nri.sock")
        with serving(socket_dir) as runtime:
            attached = Attached()
            outcome = on_thread(lambda: run(Stopping(), options, interceptors=[attached]))
            registered(runtime)
            create(runtime)
            assert outcome() is ExitCode.OK
        assert attached.stubs == ["10-test"]

    @pytest.mark.parametrize("end", ["stop", "close"])
    def test_ended_while_the_runtime_is_away(self, socket_dir: Path, end: str) -> None:
        class Waiting:
            stub: Any = None

            def on_disconnected(self, stub: Any, reason: object) -> None:
                away.set()

            def create_container(self, pod: object, container: object) -> None: ...

        away = threading.Event()
        plugin = Waiting()
        options = Options("test", "10", f"{socket_dir}/nri.sock", retry_first=True)
        forever = Backoff(first=10 * LONG, most=10 * LONG, jitter=0.0)
        outcome = on_thread(lambda: run(plugin, options, backoff=forever))
        assert away.wait(LONG)
        getattr(plugin.stub, end)()
        assert outcome() is ExitCode.OK
        with pytest.raises(StubClosed):
            plugin.stub.start()

    def test_stopped_before_the_first_attempt_to_connect(self, socket_dir: Path) -> None:
        class Hasty:
            def __setattr__(self, name: str, value: Any) -> None:
                if name == "stub":
                    value.stop()

            def create_container(self, pod: object, container: object) -> None: ...

        options = Options("test", "10", f"{socket_dir}/nri.sock", retry_first=True)
        assert on_thread(lambda: run(Hasty(), options))() is ExitCode.OK


class Attached(Interceptor):
    def __init__(self) -> None:
        self.stubs: list[str] = []

    def attach(self, stub: Any) -> None:
        self.stubs.append(stub.name)


class TestHandover:
    """Two processes of one plugin."""

    @staticmethod
    def probe(health: Path) -> dict[str, str]:
        try:
            text = health.read_text()
        except FileNotFoundError:
            return {}
        return dict(line.split(": ", 1) for line in text.splitlines())

    def expect_state(self, health: Path, state: str) -> None:
        eventually(lambda: self.probe(health).get("state") == state)

    def test_the_next_instance_stands_by(self, socket_dir: Path) -> None:
        shared = ("--handover", str(socket_dir))
        old_health, new_health = socket_dir / "old", socket_dir / "new"
        with serving(socket_dir) as runtime, contextlib.ExitStack() as stack:
            old = stack.enter_context(
                program(socket_dir, *shared, "--health-file", str(old_health))
            )
            registered(runtime)
            new = stack.enter_context(
                program(socket_dir, *shared, "--health-file", str(new_health))
            )
            self.expect_state(new_health, "standby")
            found = self.probe(new_health)
            assert (found["live"], found["ready"]) == ("yes", "yes")
            assert found["reason"] == "another instance serves"
            assert runtime.plugins == ("10-test",)
            old.signal(signal.SIGTERM)
            assert old.wait() == ExitCode.OK
            new.expect("configured, subscribed")
            self.expect_state(new_health, "synchronized")
            new.signal(signal.SIGTERM)
            assert new.wait() == ExitCode.OK

    def test_state_is_written_before_the_next_instance_serves(self, socket_dir: Path) -> None:
        main = """
import time
kept = sys.argv.pop()
def write(self):
    time.sleep(0.3)  # what a slow disk takes
    open(kept, "w").close()
def look(self, pods, containers):
    say("found", __import__("os").path.exists(kept))
Plugin.on_stop, Plugin.synchronize = write, look
"""
        kept = str(socket_dir / "kept")
        arguments = ("--handover", str(socket_dir), kept)
        with serving(socket_dir), program(socket_dir, *arguments, main=main + MAIN) as old:
            old.expect("found False")
            with program(socket_dir, *arguments, main=main + MAIN) as new:
                new.expect("standing by, as another instance serves")
                old.signal(signal.SIGTERM)
                assert old.wait() == ExitCode.OK
                new.expect("found True")

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_the_next_instance_takes_over_after_any_end_of_the_old_one(
        self, socket_dir: Path, number: signal.Signals
    ) -> None:
        shared = ("--handover", str(socket_dir))
        with serving(socket_dir) as runtime, program(socket_dir, *shared) as old:
            registered(runtime)
            with program(socket_dir, *shared) as new:
                new.expect("standing by")
                old.signal(number)
                old.wait()
                new.expect("configured, subscribed")

    def test_a_paused_instance_is_replaced_and_ends(
        self, socket_dir: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        patient = "from nri_sync.plugin import handover\n"
        patient += "handover.Handover.__init__.__kwdefaults__['patience'] = 1.5\n"
        shared = ("--handover", str(socket_dir))
        with (
            serving(socket_dir) as runtime,
            program(socket_dir, *shared, main=patient + MAIN) as old,
        ):
            registered(runtime)
            old.signal(signal.SIGSTOP)
            with program(socket_dir, *shared, main=patient + MAIN) as new:
                new.expect("has given no sign of life for 1.5 s: taking over")
                new.expect("configured, subscribed")
                old.signal(signal.SIGCONT)
                assert old.wait() == ExitCode.LOST
                assert "another instance has taken over" in error_of(old)

    def test_a_signal_ends_an_instance_that_stands_by(self, socket_dir: Path) -> None:
        shared = ("--handover", str(socket_dir))
        with serving(socket_dir) as runtime, program(socket_dir, *shared):
            registered(runtime)
            with program(socket_dir, *shared) as new:
                new.expect("standing by")
                new.signal(signal.SIGTERM)
                assert new.wait() == ExitCode.OK
            assert create(runtime) == "default"

    def test_a_missing_directory_is_refused(self, socket_dir: Path) -> None:
        with program(socket_dir, "--handover", str(socket_dir / "missing")) as plugin:
            assert plugin.wait() == ExitCode.USAGE
            assert error_of(plugin) == (
                f"--handover {socket_dir / 'missing'}: No such file or directory"
            )
