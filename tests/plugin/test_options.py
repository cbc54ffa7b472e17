"""The options that are handed on to a stub."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest

import nri_sync
from nri_sync import kit
from nri_sync.plugin.options import StubOptions, check_options
from nri_sync.testing import FakeRuntime
from tests.plugin.harness import PluginWith

__all__: list[str] = []


def test_they_are_those_of_the_stub() -> None:
    parameters = inspect.signature(nri_sync.Stub.__init__).parameters
    own = {"self", "plugin", "name", "idx", "socket_path"}
    assert StubOptions.__annotations__.keys() == parameters.keys() - own


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("interceptor", "make() has no option 'interceptor'; did you mean interceptors?"),
        ("late_replies", "make() has no option 'late_replies'; did you mean late_reply?"),
        ("foo", "make() has no option 'foo'; it has: config, connection, dialer, failure_policy, "),
    ],
)
def test_one_that_does_not_exist(name: str, text: str) -> None:
    with pytest.raises(TypeError, match=re.escape(text)):
        check_options("make", {"late_reply": True, name: 1}, ["config"])


@pytest.mark.parametrize("options", [{"foo": 4}, {"socket_path": "/x"}])
def test_callers_that_hand_them_on_refuse_it_at_once(options: dict[str, Any]) -> None:
    name = next(iter(options))
    plugin = PluginWith(shutdown=lambda: None)
    with pytest.raises(TypeError, match=rf"main\(\) has no option '{name}'"):
        kit.main(plugin, argv=["--help"], **options)
    with pytest.raises(TypeError, match=rf"run\(\) has no option '{name}'"):
        kit.run(plugin, **options)
    with (
        pytest.raises(TypeError, match=rf"run_plugin\(\) has no option '{name}'"),
        FakeRuntime().run_plugin(plugin, **options),
    ):
        pass
