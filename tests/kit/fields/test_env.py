from __future__ import annotations

import contextlib

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.kit._node import LONG, PluginWith

__all__: list[str] = []

CONTAINER = api.Container(env=["LANG=C", "PATH=/bin", "LANG=de", "EMPTY=", "NONE", "A=b=c"])


def claimed(adjustment: api.Adjustment) -> dict[str, str]:
    return {variable.key: variable.value for variable in adjustment.message.env}


def test_variables_of_a_container() -> None:
    assert kit.container_env(CONTAINER) == {"LANG": "de", "PATH": "/bin", "EMPTY": "", "A": "b=c"}
    assert kit.container_env(api.Container()) == {}


def test_only_variables_that_differ_are_claimed() -> None:
    wanted = {"LANG": "de", "PATH": "/opt/bin", "EMPTY": "", "NEW": "1", "NONE": ""}
    adjustment = api.Adjustment()
    assert kit.set_env(adjustment, CONTAINER, wanted) is adjustment
    assert claimed(adjustment) == {"PATH": "/opt/bin", "NEW": "1", "NONE": ""}
    # The image's value, which the manifest's replaced, is not the container's.
    assert claimed(kit.set_env(api.Adjustment(), CONTAINER, {"LANG": "C"})) == {"LANG": "C"}


def test_own_values_are_kept() -> None:
    adjustment = kit.set_env(
        api.Adjustment(), CONTAINER, {"PATH": "/opt", "EMPTY": "x", "NEW": "1"}, keep_own=True
    )
    assert claimed(adjustment) == {"NEW": "1"}


@pytest.mark.parametrize(("name", "value"), [("", "x"), ("A=B", "x"), ("A", "x\0")])
def test_an_invalid_variable_is_refused(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="environment"):
        kit.set_env(api.Adjustment(), CONTAINER, {name: value})


def test_two_plugins_that_want_the_same() -> None:
    def create(pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return kit.set_env(api.Adjustment(), container, {"PROXY": "http://proxy"})

    plugin = PluginWith(create_container=create)
    with FakeRuntime() as runtime, contextlib.ExitStack() as stack:
        for idx in ("10", "20"):
            stub = nri_sync.Stub(plugin, name="proxy", idx=idx, socket_path=runtime.socket_path)
            stack.enter_context(stub)
            assert stub.wait_synchronized(LONG)
        runtime.wait_for(lambda: len(runtime.plugins) == 2)
        pod = make_pod()
        runtime.run_pod(pod)
        # With add_env() it would be a conflict.
        answer = runtime.create_container(pod, make_container(pod))
        assert answer.env == {"PROXY": "http://proxy"}
