"""The parts of a stub."""

from __future__ import annotations

import pytest

import nri_sync
from nri_sync.api import EventMask
from nri_sync.plugin.spec import PluginSpec
from tests.plugin.harness import PluginWith

__all__: list[str] = []


def test_it_has_the_arguments_of_the_stub() -> None:
    interceptor = nri_sync.Interceptor()
    stub = nri_sync.Stub(
        PluginWith(stop_container=lambda pod, container: None),
        name="x",
        idx=1,
        registration_timeout=3.0,
        late_reply=False,
        interceptors=[interceptor],
        required_events=EventMask.STOP_CONTAINER,
        socket_path="/x.sock",
    )
    spec = stub._spec
    assert (spec.name, spec.identity) == ("01-x", ("01", "x"))
    assert list(spec.handlers) == ["stop_container"]
    assert spec.handled == spec.required_events == EventMask.STOP_CONTAINER
    assert (spec.failure_policy, spec.late_reply) == (None, False)
    assert spec.defaults.registration_timeout == 3.0
    assert spec.interceptors.given == stub.interceptors == (interceptor,)
    assert spec.source.path == "/x.sock"


@pytest.mark.parametrize("field", PluginSpec._fields)
def test_it_is_frozen(field: str) -> None:
    stub = nri_sync.Stub(PluginWith(shutdown=lambda: None), name="x", idx=1)
    with pytest.raises(AttributeError):
        setattr(stub._spec, field, None)
