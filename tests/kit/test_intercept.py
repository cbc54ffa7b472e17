"""The subjects of the runtime's requests."""

from __future__ import annotations

from typing import Any

import pytest

import nri_sync
from nri_sync import api, kit
from nri_sync.kit.intercept import join_names, names_of, subject
from tests.kit._node import CONTAINER, POD, PluginWith

__all__: list[str] = []


class TestNames:
    def stub(self, name: str, *interceptors: Any) -> nri_sync.Stub:
        plugin = PluginWith(run_pod_sandbox=lambda pod: None)
        return nri_sync.Stub(plugin, name=name, idx="10", interceptors=interceptors)

    @pytest.mark.parametrize("make", [kit.RequestLogging, kit.RequestTracing])
    def test_the_name_is_that_of_the_one_stub(self, make: Any) -> None:
        interceptor = make()
        stub = self.stub("a", interceptor)
        interceptor.attach(stub)
        assert interceptor.plugin == "10-a"
        with pytest.raises(ValueError, match="attached to 10-a already, and cannot serve 10-b"):
            self.stub("b", interceptor)

    @pytest.mark.parametrize("make", [kit.RequestLogging, kit.RequestTracing])
    def test_a_given_name_serves_any_number_of_stubs(self, make: Any) -> None:
        interceptor = make(plugin="both")
        self.stub("a", interceptor)
        self.stub("b", interceptor)
        assert interceptor.plugin == "both"


@pytest.mark.parametrize(
    ("request_", "names"),
    [
        (api.ConfigureRequest(config="pod"), ("", "", "")),
        (api.SynchronizeRequest(pods=[POD]), ("", "", "")),
        (api.RunPodSandboxRequest(pod=POD), ("default", "web", "")),
        (api.StopContainerRequest(pod=POD, container=CONTAINER), ("default", "web", "nginx")),
        (
            api.CreateContainerRequest(
                pod=api.PodSandbox(id="0123456789abcdef"),
                container=api.Container(id="fedcba9876543210"),
            ),
            ("", "0123456789ab", "fedcba987654"),
        ),
        (
            api.CreateContainerRequest(
                container=api.Container(labels={"io.kubernetes.container.name": "nginx"})
            ),
            ("", "", "nginx"),
        ),
        (None, ("", "", "")),
    ],
)
def test_names(request_: Any, names: tuple[str, str, str]) -> None:
    assert names_of(request_) == names
    assert subject(request_) == join_names(*names)


def test_joined_names() -> None:
    assert join_names("", "", "") == ""
    assert join_names("ns", "pod", "") == "ns/pod"
    assert join_names("", "pod", "ctr") == "pod:ctr"
    assert join_names("ns", "pod", "ctr") == "ns/pod:ctr"
