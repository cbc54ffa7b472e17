"""The lines of the network logger equal those of its predecessor."""

from __future__ import annotations

import logging

import pytest

from examples.network_logger.plugin import NetworkLogger
from nri_sync import api
from nri_sync.testing import FakeRuntime, StartPlugin, make_pod

__all__: list[str] = []


def test_lines(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "network-logger")
    network = api.LinuxNamespace(type="network", path="/var/run/netns/cni-1")
    web = make_pod("web", namespace="shop", ips=["10.0.0.1", "fd00::1"], namespaces=[network])
    host = make_pod("host", ips=[], namespaces=[])
    nri_runtime.add(host)
    nri_plugin(NetworkLogger())
    nri_runtime.run_pod(web)
    nri_runtime.remove_pod(web)
    assert [record.message for record in caplog.records if record.name == "network-logger"] == [
        "Synchronized state with the runtime (1 pods, 0 containers)...",
        "pod default/host: namespace=<host-network> ips=[]",
        "Started pod shop/web: namespace=/var/run/netns/cni-1 ips=[10.0.0.1 fd00::1]",
        "Stopped pod shop/web: ips=[10.0.0.1 fd00::1]",
        "Removed pod shop/web: ips=[10.0.0.1 fd00::1]",
    ]
