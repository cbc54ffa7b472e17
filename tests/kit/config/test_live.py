"""The configuration of a running plugin, by file and by Configure. Whole programs are in test_program.py."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.codes import StatusCode
from nri_sync.errors import ConfigError, PluginError, StartError
from nri_sync.kit import LiveConfig
from tests.forked import WARNS, in_child
from tests.kit.programs import serving
from tests.plugin.harness import eventually
from tests.runtime.rig import LONG, on_thread

__all__: list[str] = []


@dataclass
class Config:
    value: str = "default"


class Plugin:
    config: Config

    def __init__(self) -> None:
        self.told: list[Any] = []

    def on_config(self, config: Config) -> None:
        if config.value == "refused":
            raise ValueError("not that one")
        self.told.append((config.value, getattr(self, "config", None)))

    def configure(self, config: str, runtime: str, version: str) -> None:
        self.told.append((config, runtime, version, self.config.value))

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> None: ...


class Quiet:
    config: Config

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> None: ...


def test_a_text_from_the_runtime_is_applied_when_it_differs(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    plugin = Plugin()
    live = LiveConfig(plugin, Config)
    live.read_text("")
    live.read_text("value: a")
    live.read_text("value: a")
    live.read_text("value: b")
    assert plugin.told == [("default", None), ("a", Config()), ("b", Config("a"))]
    assert plugin.config == Config("b")
    assert caplog.messages[-1] == "configured from the configuration from the runtime"
    with pytest.raises(ValueError, match="no configuration file"):
        live.read_file()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "{",
            "the configuration from the runtime: is not JSON (guessed from its first line): line 1",
        ),
        ("val: x", 'the configuration from the runtime: val: unknown key; did you mean "value"?'),
        ("value: refused", "the configuration from the runtime: not that one"),
    ],
)
def test_a_refused_text_changes_nothing(text: str, told: str) -> None:
    plugin = Plugin()
    live = LiveConfig(plugin, Config)
    live.read_text("value: a")
    with pytest.raises(ConfigError) as error:
        live.read_text(text)
    assert str(error.value).startswith(told)
    assert plugin.config == Config("a")
    # The failed text is not stored, so it is applied again.
    with pytest.raises(ConfigError):
        live.read_text(text)


@WARNS
def test_a_fork_while_a_text_is_applied() -> None:
    begun, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(Plugin):
        def on_config(self, config: Config) -> None:
            if os.getpid() == parent:
                begun.set()
                assert go_on.wait(LONG)
            super().on_config(config)

    plugin = Slow()
    live = LiveConfig(plugin, Config)
    applied = on_thread(lambda: live.read_text("value: a"))
    assert begun.wait(LONG)

    def child() -> None:
        live.read_text("value: b")
        assert plugin.config == Config("b")

    in_child(child)
    go_on.set()
    applied()
    assert plugin.config == Config("a")


def test_a_file_takes_precedence_over_the_text_of_the_runtime(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"value": "file"}')
    plugin = Quiet()
    live = LiveConfig(plugin, Config, path)
    live.read_file()
    live.read_text("")
    assert caplog.messages == []
    live.read_text("value: sent")
    assert caplog.messages == [
        f"the configuration from the runtime is ignored; {path} is used instead"
    ]
    assert plugin.config == Config("file")


def test_a_missing_key_without_any_configuration() -> None:
    @dataclass
    class Required:
        value: str

    live = LiveConfig(Quiet(), Required, without="nothing")
    with pytest.raises(ConfigError, match=r"^nothing: value: missing; expected text$"):
        live.read_text("\n")


def test_an_invalid_configuration_type_or_plugin_is_refused() -> None:
    with pytest.raises(TypeError, match="neither a dataclass, nor a model, nor a function"):
        LiveConfig(Quiet(), 5)  # type: ignore[arg-type]
    with pytest.raises(PluginError, match="the plugin object has no handlers"):
        LiveConfig(object(), Config).plugin()


def test_a_plugin_that_is_configured_before_all_else(socket_dir: Path) -> None:
    plugin = Plugin()
    live = LiveConfig(plugin, Config)
    path = f"{socket_dir}/nri.sock"
    with serving(socket_dir) as runtime:
        with nri_sync.Stub(live.plugin(), name="test", idx="10", socket_path=path) as stub:
            assert runtime.wait_for_plugins(bool, LONG)
            assert stub.events == nri_sync.EventMask.CREATE_CONTAINER
        assert plugin.told == [("default", None), ("", "test", "v1", "default")]


def test_a_wrong_configuration_fails_the_start(
    socket_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    live = LiveConfig(Quiet(), lambda data: 1 / 0 if data else _refuse())
    path = f"{socket_dir}/nri.sock"
    with serving(socket_dir):
        stub = nri_sync.Stub(live.plugin(), name="test", idx="10", socket_path=path)
        with pytest.raises(StartError, match="refused by the model"):
            stub.start()
        # The runtime logs the refusal on a thread that the stub does not wait for.
        eventually(lambda: StatusCode.INVALID_ARGUMENT.name in caplog.text)
    told = "the configuration from the runtime, which is empty: refused by the model"
    assert told in caplog.text
    assert "Traceback" not in "".join(
        record.getMessage() for record in caplog.records if record.exc_info
    )


def _refuse() -> None:
    raise ValueError("refused by the model")
