"""Variables of services."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync.testing.manifests import Assumptions, load
from nri_sync.testing.manifests.services import service_env
from tests.testing.manifests import container, fields, only

__all__: list[str] = []


def env(
    *services: Any, namespace: str = "shop", links: bool = True, **assumptions: Any
) -> dict[str, str]:
    known = {("shop", item.get("name", "db")): fields({"spec": item["spec"]}) for item in services}
    found = service_env(known, namespace, links, Assumptions(**assumptions), notes.append)
    return {key: value for key, value in found.items() if not key.startswith("KUBERNETES_")}


notes: list[str] = []
SPEC = {
    "clusterIP": "10.0.0.7",
    "ports": [{"name": "sql-tcp", "port": 5432}, {"name": "dns", "port": 53, "protocol": "UDP"}],
}


def test_the_api_server() -> None:
    """Every pod has these variables (``envvars_test.go`` in ``pkg/kubelet/envvars`` has their form)."""
    assert service_env({}, "shop", False, Assumptions(), notes.append) == {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "KUBERNETES_SERVICE_PORT": "443",
        "KUBERNETES_SERVICE_PORT_HTTPS": "443",
        "KUBERNETES_PORT": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
        "KUBERNETES_PORT_443_TCP_PROTO": "tcp",
        "KUBERNETES_PORT_443_TCP_PORT": "443",
        "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
    }


def test_a_service() -> None:
    assert env({"name": "my-db", "spec": SPEC}) == {
        "MY_DB_SERVICE_HOST": "10.0.0.7",
        "MY_DB_SERVICE_PORT": "5432",
        "MY_DB_SERVICE_PORT_SQL_TCP": "5432",
        "MY_DB_SERVICE_PORT_DNS": "53",
        "MY_DB_PORT": "tcp://10.0.0.7:5432",
        "MY_DB_PORT_5432_TCP": "tcp://10.0.0.7:5432",
        "MY_DB_PORT_5432_TCP_PROTO": "tcp",
        "MY_DB_PORT_5432_TCP_PORT": "5432",
        "MY_DB_PORT_5432_TCP_ADDR": "10.0.0.7",
        "MY_DB_PORT_53_UDP": "udp://10.0.0.7:53",
        "MY_DB_PORT_53_UDP_PROTO": "udp",
        "MY_DB_PORT_53_UDP_PORT": "53",
        "MY_DB_PORT_53_UDP_ADDR": "10.0.0.7",
    }


def test_addresses_of_ipv6_have_brackets() -> None:
    found = env({"spec": {"clusterIP": "fd00::7", "ports": [{"port": 80}]}})
    assert found["DB_PORT_80_TCP"] == "tcp://[fd00::7]:80"
    assert found["DB_SERVICE_HOST"] == "fd00::7"


@pytest.mark.parametrize(
    "spec",
    [
        {**SPEC, "clusterIP": "None"},
        {**SPEC, "clusterIP": None, "clusterIPs": ["None"]},
        {"type": "ExternalName", "externalName": "db.example"},
        {"clusterIP": "10.0.0.7"},
    ],
)
def test_services_without_variables(spec: Any) -> None:
    assert env({"spec": spec}) == {}


def test_which_services_a_pod_knows_of() -> None:
    assert env({"spec": SPEC}, namespace="other") == {}
    assert env({"spec": SPEC}, links=False) == {}
    assert env({"spec": SPEC}, static_pods=True) == {}


def test_the_api_server_s_own_service() -> None:
    given = {
        ("default", "kubernetes"): fields(
            {"spec": {"clusterIP": "10.1.0.1", "ports": [{"port": 6443}]}}
        )
    }
    found = service_env(given, "shop", False, Assumptions(), notes.append)
    assert found["KUBERNETES_PORT"] == "tcp://10.1.0.1:6443"
    assert "KUBERNETES_SERVICE_PORT_HTTPS" not in found


def test_an_address_is_made_up() -> None:
    noted: list[str] = []
    service = {("shop", "db"): fields({"spec": {"ports": [{"port": 80}]}})}
    found = service_env(service, "shop", True, Assumptions(), noted.append)
    assert found == service_env(service, "shop", True, Assumptions(), noted.append)
    assert noted[0] == f"the address of Service db is made up: {found['DB_SERVICE_HOST']}"


def test_among_documents() -> None:
    text = """
kind: Service
metadata: {name: db}
spec: {clusterIP: 10.0.0.9, ports: [{port: 1}]}
---
kind: Pod
metadata: {name: web}
spec: {containers: [{name: app, image: x, args: ["$(DB_SERVICE_HOST)"], command: [x]}]}
"""
    found = container(only(load(text))).container
    assert "DB_SERVICE_HOST=10.0.0.9" in found.env
    assert list(found.args) == ["x", "10.0.0.9"]
