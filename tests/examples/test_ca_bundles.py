"""Certificates for containers, and the behaviour without a bundle."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest

from examples.ca_bundles.plugin import VARIABLES, CABundles, Config
from nri_sync import kit
from nri_sync.errors import Reject
from nri_sync.testing import Changes, FakeRuntime, make_container, make_pod
from tests.examples.attached import run_attached, wait_until_asked

__all__: list[str] = []

ENABLED = "enabled.ca.example.com"

# A CA whose key is deleted, valid for a hundred years.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBgTCCASegAwIBAgIUNY8ItXGkZP3iNjCNGrEgM9nCk3QwCgYIKoZIzj0EAwIw
FTETMBEGA1UEAwwKRXhhbXBsZSBDQTAgFw0yNjExMjIyMTQyNTlaGA8yMTI2MTAy
OTIxNDI1OVowFTETMBEGA1UEAwwKRXhhbXBsZSBDQTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABH/mfz0lCqY2Exh20+z3FnQ/GCnFlSQ8Ln5nq2RD95BYooCVATFQ
ZyCNge79xpdahzAeYUk0zY8Wakh1RCrSebajUzBRMB0GA1UdDgQWBBQtnnIwuuMQ
b2Nu38wPEZ8Iz0ztvDAfBgNVHSMEGDAWgBQtnnIwuuMQb2Nu38wPEZ8Iz0ztvDAP
BgNVHRMBAf8EBTADAQH/MAoGCCqGSM49BAMCA0gAMEUCIQCiDVlJMYqOBckVntnA
bxLqWwaB4K5GM7XXKhjX9zZViAIgPCYRYR2bZ3EzUTB6z+GPHxM1YpsHviRKuI2O
FdjZ7rc=
-----END CERTIFICATE-----
"""


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    path.write_text(CERTIFICATE)
    return path


@pytest.fixture
def plugin(bundle: Path) -> CABundles:
    plugin = CABundles()
    plugin.config = Config(bundle=bundle)
    return plugin


def changes(plugin: CABundles, namespace: str = "default", enabled: str | None = None) -> Changes:
    annotations = {} if enabled is None else {ENABLED: enabled}
    pod = make_pod(namespace=namespace, annotations=annotations)
    return Changes(plugin.create_container(pod, make_container(pod, env={"SSL_CERT_FILE": "own"})))


def test_the_bundle_is_mounted_and_its_variables_are_set(plugin: CABundles, bundle: Path) -> None:
    plugin.config.system_files.append("/etc/ssl/certs/ca-certificates.crt")
    found = changes(plugin, enabled="true")
    # The plugin does not change variables of the container.
    assert set(found.env) == set(VARIABLES) - {"SSL_CERT_FILE"}
    assert set(found.env.values()) == {"/run/ca-bundles/ca.pem"}
    directory = found.mounts["/run/ca-bundles"]
    assert directory is not None
    assert (directory.source, directory.type) == (str(bundle.parent), "bind")
    assert "ro" in directory.options
    file = found.mounts["/etc/ssl/certs/ca-certificates.crt"]
    assert file is not None
    assert file.source == str(bundle)


def test_only_enabled_pods_and_listed_namespaces_get_the_bundle(plugin: CABundles) -> None:
    assert changes(plugin).empty
    plugin.config.namespaces.append("team-*")
    assert not changes(plugin, "team-a").empty
    assert changes(plugin, "team-a", enabled="false").empty
    assert changes(plugin, "shop").empty
    with pytest.raises(ValueError, match=ENABLED):
        changes(plugin, enabled="perhaps")


@pytest.mark.parametrize("content", [None, "", "nonsense"])
def test_without_a_bundle(
    plugin: CABundles, bundle: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    if content is None:
        bundle.unlink()
    else:
        bundle.write_text(content)
    assert changes(plugin, enabled="true").empty
    assert "nothing is injected" in caplog.text
    plugin.config.without_bundle = "fail"
    with pytest.raises(Reject, match=r"ca\.pem"):
        changes(plugin, enabled="true")


def test_probes(nri_runtime: FakeRuntime, plugin: CABundles, bundle: Path) -> None:
    prometheus = pytest.importorskip(
        "prometheus_client", reason="the extra metrics is not installed"
    )
    health = kit.Health(checks=[plugin.problem], registry=prometheus.CollectorRegistry())
    health.registry.register(plugin)
    with kit.HealthServer(health, "127.0.0.1:0") as server:

        def get(path: str) -> str:
            try:
                with urllib.request.urlopen(f"http://{server.address}{path}") as response:
                    text: bytes = response.read()
            except urllib.error.HTTPError as error:
                with error:
                    text = error.read()
            return text.decode()

        with run_attached(nri_runtime, plugin, health) as stub:
            pod = make_pod(annotations={ENABLED: "true"})
            nri_runtime.run_pod(pod)
            nri_runtime.create_container(pod, make_container(pod))
            assert get("/readyz").startswith("ok")
            assert "ca_bundles_injected_total 1.0\n" in get("/metrics")
            bundle.unlink()
            assert "ca.pem" in get("/readyz")
            assert get("/livez").startswith("ok")
            bundle.write_text(CERTIFICATE)
            nri_runtime.restart()
            stub.wait()
            assert get("/readyz").startswith("failed: connecting")
            assert get("/livez").startswith("ok")
            stub.start()
            wait_until_asked(nri_runtime)
            assert get("/readyz").startswith("ok")
