"""The manifests of the examples: kustomize builds them, the API knows their fields, and plugins run with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync.runtime import Runtime
from tests.examples.test_ca_bundles import CERTIFICATE
from tests.interop.deployed import EXAMPLES, NOT_DEPLOYED, ROOT, Deployment, read

__all__: list[str] = []

FOLDERS = ROOT / "examples"
LONG = 20.0
PODS = sorted(FOLDERS.glob("*/*pod*.yaml"))

# Capabilities of plugins. Other plugins have none.
CAPABILITIES = {"network_device_injector": ["NET_ADMIN", "SYS_ADMIN"]}
HOST_NETWORK = {
    "network_device_injector": "moves interfaces of the node",
    "pod_cache": "is asked by programs of the node",
}
# Only one instance of these plugins may run on a node at a time.
ONE_AT_A_TIME = {
    "differ": "a tool without stand-by",
    "embedded_service": "an application without stand-by",
    "pod_cache": "listens on a port of the node",
    "self_stopping": "an application without stand-by",
}
# A tool, and a template for applications with their own health endpoint.
NO_PROBES = {"differ", "self_stopping"}

# Without these files, the plugins are not ready, and report that.
NEEDED_FILES = {"ca_bundles": ("etc/ca-bundles/ca.pem", CERTIFICATE)}


@pytest.fixture(scope="module")
def built() -> dict[str, Any]:
    return read(*(FOLDERS / name for name in EXAMPLES), *PODS)


@pytest.fixture(params=EXAMPLES)
def example(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def deployment(example: str, built: dict[str, Any]) -> Deployment:
    objects = built[str(FOLDERS / example)]
    assert not isinstance(objects, str), objects
    return Deployment(objects)


def test_every_example_has_manifests() -> None:
    have = {path.parent.name for path in FOLDERS.glob("*/kustomization.yaml")}
    assert have == set(EXAMPLES)
    assert not have & set(NOT_DEPLOYED)


class TestDaemonSet:
    def test_is_called_as_the_example(self, example: str, deployment: Deployment) -> None:
        name = f"nri-plugin-{example.replace('_', '-')}"
        image, _, tag = deployment.container["image"].rpartition(":")
        assert (deployment.name, image) == (name, f"registry.example.com/{name}")
        assert tag == nri_sync.__version__.partition(".dev")[0]
        labels = {"app.kubernetes.io/name": name}
        assert deployment.daemon_set["spec"]["selector"]["matchLabels"] == labels
        assert deployment.template["metadata"]["labels"] == labels

    def test_goes_to_all_nodes_and_takes_turns(self, example: str, deployment: Deployment) -> None:
        assert deployment.daemon_set["metadata"]["namespace"] == "kube-system"
        assert deployment.pod["tolerations"] == [{"operator": "Exists"}]
        assert deployment.pod["priorityClassName"] == "system-node-critical"
        strategy = deployment.daemon_set["spec"]["updateStrategy"]
        assert strategy["type"] == "RollingUpdate"
        takes_turns = example not in ONE_AT_A_TIME
        assert strategy["rollingUpdate"] == (
            {"maxSurge": 1, "maxUnavailable": 0}
            if takes_turns
            else {"maxSurge": 0, "maxUnavailable": "10%"}
        )
        assert ("--handover=/run/nri-plugins" in deployment.args) == takes_turns
        assert ("/run/nri-plugins" in deployment.mounts) == takes_turns
        # Two pods on the node's network cannot use the same port.
        assert not (takes_turns and deployment.pod.get("hostNetwork") and deployment.ports)

    def test_starts_where_the_runtime_requires_plugins(self, deployment: Deployment) -> None:
        annotations = deployment.template["metadata"]["annotations"]
        assert annotations == {"tolerate-missing-plugins.noderesource.dev": "true"}
        page = (ROOT / "docs" / "deploying.md").read_text()
        for key in annotations:
            assert f'tolerate_missing_plugins_annotation = "{key}"' in page

    def test_mounts_the_directory_of_the_socket(self, deployment: Deployment) -> None:
        volume = deployment.volumes[deployment.mounts["/var/run/nri"]]
        assert volume["hostPath"] == {"path": "/var/run/nri", "type": "Directory"}
        (mount,) = [
            mount
            for mount in deployment.container["volumeMounts"]
            if mount["mountPath"] == "/var/run/nri"
        ]
        assert mount["readOnly"]

    def test_each_volume_is_mounted_and_the_configuration_is_the_examples(
        self, example: str, deployment: Deployment
    ) -> None:
        assert sorted(deployment.mounts.values()) == sorted(deployment.volumes)
        for volume in deployment.volumes.values():
            if "configMap" in volume:
                data = deployment.config_maps[volume["configMap"]["name"]]
                text = (FOLDERS / example / "config.yaml").read_text()
                assert data == {"config.yaml": text}
        has_config = (FOLDERS / example / "config.yaml").exists()
        assert ("--config=/etc/plugin/config.yaml" in deployment.args) == has_config

    def test_has_no_right_too_many(self, example: str, deployment: Deployment) -> None:
        security = dict(deployment.container["securityContext"])
        capabilities = security.pop("capabilities")
        assert capabilities.pop("drop") == ["ALL"]
        assert capabilities.get("add", []) == CAPABILITIES.get(example, [])
        assert security == {
            "runAsUser": 0,
            "runAsGroup": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
        }
        assert deployment.pod["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}
        assert deployment.pod["automountServiceAccountToken"] is False
        assert deployment.pod.get("hostNetwork", False) == (example in HOST_NETWORK)
        assert not {"hostPID", "hostIPC"} & set(deployment.pod)

    def test_has_resources(self, deployment: Deployment) -> None:
        resources = deployment.container["resources"]
        assert set(resources["requests"]) == {"cpu", "memory"}
        # Containers would have to wait for a plugin with a CPU limit.
        assert set(resources["limits"]) == {"memory"}


@pytest.fixture
def node(socket_path: Path) -> Iterator[Runtime]:
    runtime = Runtime(
        "node",
        "1.0",
        synchronize=lambda deliver: deliver([], []),
        update_containers=lambda updates, evictions: [],
        socket_path=str(socket_path),
        plugin_path=None,
    )
    with runtime:
        yield runtime


def test_plugins_run_with_their_arguments_and_probes_tell(
    example: str, deployment: Deployment, node: Runtime, socket_dir: Path, socket_path: Path
) -> None:
    probes = () if example in NO_PROBES else ("livenessProbe", "readinessProbe")
    found = {name for name in deployment.container if name.endswith("Probe")}
    assert found - {"startupProbe"} == set(probes)
    has_startup = "startupProbe" in found
    assert has_startup == ("--health-file=/run/plugin/health" in deployment.args)
    directory = socket_dir / "container"
    directory.mkdir()
    with deployment.running(example, directory, socket_path) as process:
        if not node.wait_for_plugins(bool, LONG):
            process.send_signal(signal.SIGTERM)
            pytest.fail(process.communicate(timeout=LONG)[1])
        if example in NEEDED_FILES:
            assert deployment.probe("readinessProbe", directory) == 1
            name, text = NEEDED_FILES[example]
            (directory / name).write_text(text)
        give_up = time.monotonic() + LONG
        # The runtime lists the plugin just before the plugin itself has noted its synchronization.
        while probes and deployment.probe("readinessProbe", directory) != 0:
            assert time.monotonic() < give_up
        if has_startup:
            assert deployment.probe("startupProbe", directory) == 0
        if probes:
            assert deployment.probe("livenessProbe", directory) == 0
            node.stop()
            while deployment.probe("readinessProbe", directory) == 0:
                assert time.monotonic() < give_up
            assert deployment.probe("livenessProbe", directory) == 0
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=LONG)
        assert process.returncode == 0, log


class TestComponents:
    @pytest.fixture
    def build(self, socket_dir: Path) -> Any:
        def build(*components: str, more: str = "") -> Deployment:
            lines = ["resources:", f"  - {self.relative('template', socket_dir)}", "components:"]
            lines += [
                f"  - {self.relative(f'deploy/components/{c}', socket_dir)}" for c in components
            ]
            (socket_dir / "kustomization.yaml").write_text("\n".join([*lines, more]) + "\n")
            (objects,) = read(socket_dir).values()
            assert not isinstance(objects, str), objects
            return Deployment(objects)

        return build

    @staticmethod
    def relative(path: str, base: Path) -> str:
        return os.path.relpath((FOLDERS / path).resolve(), base.resolve())

    def test_all_are_used(self) -> None:
        used = "".join(path.read_text() for path in FOLDERS.glob("*/kustomization.yaml"))
        optional = {"http", "image-unstable", "non-root", "socket"}
        for component in (FOLDERS / "deploy" / "components").iterdir():
            assert (f"components/{component.name}\n" in used) != (component.name in optional)

    def test_http(self, build: Any) -> None:
        deployment = build("http")
        assert "--health-address=0.0.0.0:8080" in deployment.args
        assert not any(arg.startswith("--health-file") for arg in deployment.args)
        assert "--config=/etc/plugin/config.yaml" in deployment.args
        (port,) = deployment.container["ports"]
        assert port["containerPort"] == 8080
        paths = {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
        for probe, path in paths.items():
            assert "exec" not in deployment.container[probe]
            assert deployment.container[probe]["httpGet"] == {"path": path, "port": port["name"]}

    def test_one_at_a_time(self, build: Any) -> None:
        deployment = build("one-at-a-time")
        assert deployment.args[:2] == ["--retry-first", "--health-file=/run/plugin/health"]
        assert "--config=/etc/plugin/config.yaml" in deployment.args
        assert not any(arg.startswith("--handover") for arg in deployment.args)
        assert "/run/nri-plugins" not in deployment.mounts
        assert "handover" not in deployment.volumes
        rolling = deployment.daemon_set["spec"]["updateStrategy"]["rollingUpdate"]
        assert rolling == {"maxSurge": 0, "maxUnavailable": "10%"}

    def test_socket(self, build: Any) -> None:
        """Used as the component describes; the ConfigMap itself is not applied to a cluster."""
        text = (FOLDERS / "deploy/components/socket/kustomization.yaml").read_text()
        lines = [line[6:] for line in text.splitlines() if line.startswith("#     ")]
        deployment = build("socket", more="\n".join(lines))
        volume = deployment.volumes[deployment.mounts["/var/run/nri"]]
        assert volume["hostPath"] == {"path": "/run/k3s/nri", "type": "Directory"}
        assert all(name.startswith("nri-plugin-template") for name in deployment.config_maps)

    def test_image_unstable(self, build: Any) -> None:
        container = build("image-unstable").container
        assert container["image"] == "registry.example.com/nri-plugin-template:unstable"
        assert container["imagePullPolicy"] == "Always"

    def test_non_root(self, build: Any) -> None:
        security = build("non-root").container["securityContext"]
        assert (security["runAsUser"], security["runAsGroup"]) == (65532, 65532)
        assert security["runAsNonRoot"] is True


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.parent.name)
def test_sample_pods(path: Path, built: dict[str, Any]) -> None:
    objects = built[str(path)]
    assert not isinstance(objects, str), objects
    assert "Pod" in {item["kind"] for item in objects}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {contaners: []}", "contaners"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: A_b}", "A_b"),
        ("apiVersion: v1\nkind: Pot\nmetadata: {name: a}", "Pot"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {priority: high}", "priority"),
    ],
)
def test_a_mistake_is_found(text: str, problem: str, socket_dir: Path) -> None:
    path = socket_dir / "pod.yaml"
    path.write_text(text)
    (found,) = read(path).values()
    assert isinstance(found, str)
    assert problem in found
