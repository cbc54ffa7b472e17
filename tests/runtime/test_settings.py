"""The arguments of a runtime, and the call of its ``synchronize`` callback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nri_sync import api
from nri_sync.errors import LifecycleError, PluginError
from nri_sync.runtime import Runtime
from nri_sync.runtime.settings import Settings
from tests.runtime.rig import CONTAINER, POD, Host, PluginWith, host_options

__all__: list[str] = []


def _settings(**options: Any) -> Settings:
    values: dict[str, Any] = {
        "name": "test", "version": "v1", "nri_version": "v0.12.5",
        "synchronize": lambda sync: sync([POD], [CONTAINER]),
        "update_containers": lambda updates, evictions: [],
        "socket_path": None, "plugin_path": None, "plugin_config_path": "/nowhere", "plugins": {},
        "registration_timeout": 5.005, "request_timeout": 2.007, "max_unregistered": 1, "exit_grace": 1.0,
    }  # fmt: skip
    return Settings(**{**values, **options})


@pytest.mark.parametrize("option", ["synchronize", "update_containers"])
def test_the_callbacks_are_needed(option: str, socket_dir: Path) -> None:
    options = host_options(Host(), socket_dir)
    options[option] = None
    with pytest.raises(TypeError, match=f"{option} must be callable, not NoneType"):
        Runtime("test", "v1", **options)
    del options[option]
    with pytest.raises(TypeError, match=option):
        Runtime("test", "v1", **options)


@pytest.mark.parametrize(
    "option", ["registration_timeout", "request_timeout", "exit_grace", "max_unregistered"]
)
def test_numbers_are_positive(option: str) -> None:
    with pytest.raises(ValueError, match=f"{option} must be positive, not 0"):
        _settings(**{option: 0}).check()


def test_plugins_of_this_process_are_checked_at_once() -> None:
    with pytest.raises(PluginError, match="has no handlers"):
        _settings(plugins={"10-a": object()}).check()
    plugin = PluginWith(run_pod_sandbox=lambda pod: None)
    for name in ("a", "1-a", "10-", "10-a,b"):
        with pytest.raises(ValueError, match=r"plugin (file )?(name|index)"):
            _settings(plugins={name: plugin}).check()
    _settings(plugins={"10-a": plugin}).check()


def test_the_configure_request() -> None:
    assert _settings().configuration("text") == api.ConfigureRequest(
        config="text", runtime_name="test", runtime_version="v1",
        registration_timeout=5005, request_timeout=2007, NRI_version="v0.12.5",
    )  # fmt: skip


def test_the_callback_may_call_once() -> None:
    update = api.ContainerUpdate(container_id="c")
    got: list[Any] = []

    def synchronize(sync: Any) -> None:
        got.append(sync([POD], [CONTAINER]))
        with pytest.raises(LifecycleError, match="10-a: already synchronized"):
            sync([], [])

    def sync(pods: Any, containers: Any) -> Any:
        got.append((pods, containers))
        return [update]

    _settings(synchronize=synchronize).run_synchronize(sync, "10-a")
    assert got == [([POD], [CONTAINER]), [update]]


def test_a_callback_without_the_call_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    _settings(synchronize=lambda sync: None).run_synchronize(lambda pods, containers: [], "10-a")
    assert caplog.messages == ["10-a: the synchronize callback did not call its argument"]
