"""A Kubernetes Pod, in the form in which the kubelet passes it to containerd, and containerd to plugins.

After Kubernetes v1.36, ``pkg/kubelet/kuberuntime``; docs/manifests.md has the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from nri_sync.kit.fields.qos import QoS, kubelet_cgroup_parent
from nri_sync.testing.manifests import ids
from nri_sync.testing.manifests.containers import PodContext, map_container
from nri_sync.testing.manifests.cri import IDMapping, SandboxConfig
from nri_sync.testing.manifests.defaults import RANGED, defaulted
from nri_sync.testing.manifests.environment import Environment, Objects
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import (
    Assumptions,
    Kind,
    Workload,
)
from nri_sync.testing.manifests.resources import ContainerAmounts, PodAmounts
from nri_sync.testing.manifests.runtimes import model_of
from nri_sync.testing.manifests.services import service_env
from nri_sync.testing.manifests.validation import validate
from nri_sync.testing.manifests.volumes import Volumes

__all__ = ["PodMetadata", "pod_workload"]

_SEEN = "2025-01-01T00:00:00.000000000Z"
_LONGEST_HOSTNAME = 63
_LONGEST_FQDN = 64
# The range of the first pod with a user namespace on a node.
_USER_NAMESPACE = IDMapping(container=0, host=65536, size=65536)


@dataclass
class PodMetadata:
    """``metadata`` of a pod, as returned by the API server."""

    name: str
    namespace: str
    uid: str
    labels: dict[str, str] = field(default_factory=dict)
    annotations: dict[str, str] = field(default_factory=dict)
    #: The claims for the volumes that a StatefulSet gives the pod.
    claims: Sequence[str] = ()


def pod_workload(
    metadata: PodMetadata,
    spec: Fields,
    *,
    status: Fields,
    objects: Objects,
    assumptions: Assumptions,
) -> Workload:
    """The workload of a pod; ``status`` is empty, unless the pod exists.

    Raises ManifestError for a pod that Kubernetes would not create.
    """
    # A kubelet without an API server has no admission.
    ranges = [] if assumptions.static_pods else objects.limit_ranges.get(metadata.namespace, [])
    spec, ranged = defaulted(spec, ranges)
    if ranged:
        metadata.annotations[RANGED] = ranged
    validate(
        spec,
        name=metadata.name,
        namespace=metadata.namespace,
        uid=metadata.uid,
        labels=metadata.labels,
        annotations=metadata.annotations,
    )
    return _Mapping(metadata, spec, status, objects, assumptions).workload()


class _Mapping:
    def __init__(
        self,
        metadata: PodMetadata,
        spec: Fields,
        status: Fields,
        objects: Objects,
        assumptions: Assumptions,
    ) -> None:
        self.metadata = metadata
        self.spec = spec
        self.status = status
        self.objects = objects
        self.assumptions = assumptions
        self.notes: dict[str, None] = {}
        if spec.object("os").text("name", "linux") != "linux":
            spec.fail("is not linux: NRI is for Linux containers", "os.name")
        self.containers = list(_containers(spec))
        self.sandbox_id = ids.container_id(
            "sandbox", metadata.namespace, metadata.name, metadata.uid
        )
        self.amounts = self._amounts()
        self.volumes = self._volumes()
        self.sandbox = self._sandbox()
        self.environment = self._environment()

    def note(self, text: str) -> None:
        self.notes[text] = None

    def workload(self) -> Workload:
        pod = PodContext(
            spec=self.spec,
            status=self.status,
            sandbox=self.sandbox,
            amounts=self.amounts,
            volumes=self.volumes,
            environment=self.environment,
            assumptions=self.assumptions,
            service_account=self._account(),
        )
        containers = []
        for (_, fields), amounts in zip(self.containers, self.amounts.containers):

            def note(text: str, name: str = amounts.name) -> None:
                self.note(f"container {name}: {text}")

            containers.append(map_container(pod, fields, amounts, note))
        return Workload(
            source=self.spec.source,
            pod=model_of(self.assumptions.runtime).pod(self.sandbox, self.assumptions),
            containers=tuple(containers),
            resized=self.amounts.resized_sandbox(self.assumptions).message(),
            notes=tuple(self.notes),
        )

    # The pod

    def _amounts(self) -> PodAmounts:
        runtime_class = self._runtime_class()
        overhead = runtime_class.object("overhead").quantities("podFixed")
        given = self.status.text("qosClass")
        return PodAmounts.read(
            self.spec,
            [ContainerAmounts.read(fields, kind) for kind, fields in self.containers],
            overhead=self.spec.quantities("overhead") or overhead,
            status_qos=QoS(given) if given in {qos.value for qos in QoS} else None,
            node_critical=self.spec.text("priorityClassName") == "system-node-critical",
        )

    def _runtime_class(self) -> Fields:
        name = self.spec.text("runtimeClassName")
        known = self.objects.runtime_classes.get(name)
        if name and known is None:
            self.note(
                f"RuntimeClass {name} is not among the documents: its handler is assumed to be {name}"
            )
        return known or Fields({"handler": name}, self.spec.source)

    def _volumes(self) -> Volumes:
        volumes = Volumes(
            self.spec,
            uid=self.metadata.uid,
            namespace=self.metadata.namespace,
            pod_name=self.metadata.name,
            sandbox_id=self.sandbox_id,
            claims=self.objects.claims,
            persistent=self.objects.volumes,
            note=self.note,
        )
        for claim in self.metadata.claims:
            volumes.claim(claim)
        return volumes

    @property
    def _host_network(self) -> bool:
        return self.spec.flag("hostNetwork")

    def _sandbox(self) -> SandboxConfig:
        metadata, spec = self.metadata, self.spec
        id = self.sandbox_id
        pod_ips = [entry.text("ip") for entry in self.status.objects("podIPs")]
        user_namespace = not spec.flag("hostUsers", True)
        if user_namespace:
            self.note("the user ids of its user namespace are made up")
        hostname = "" if self._host_network else self._hostname()
        sandbox = SandboxConfig(
            id=id,
            name=metadata.name,
            namespace=metadata.namespace,
            uid=metadata.uid,
            pid=ids.process_id(id),
            # For a pod on the host's network, containerd has no address.
            ips=() if self._host_network else pod_ips or [self.assumptions.pod_ip],
            hostname=hostname,
            labels=dict(metadata.labels),
            annotations=self._annotations(),
            log_directory=f"/var/log/pods/{metadata.namespace}_{metadata.name}_{metadata.uid}",
            cgroup_parent=kubelet_cgroup_parent(
                self.amounts.qos, metadata.uid, systemd=self.assumptions.systemd_cgroups
            ),
            resources=self.amounts.sandbox(self.assumptions),
            overhead=self.amounts.overhead_resources(self.assumptions),
            runtime_handler=self._runtime_class().text("handler"),
            host_network=self._host_network,
            host_pid=spec.flag("hostPID"),
            host_ipc=spec.flag("hostIPC"),
            share_processes=spec.flag("shareProcessNamespace"),
            id_mappings=[_USER_NAMESPACE] if user_namespace else (),
        )
        sandbox.labels.update(sandbox.identity)
        return sandbox

    def _annotations(self) -> dict[str, str]:
        prefix = "kubernetes.io/config"
        static = self.assumptions.static_pods
        return {
            **self.metadata.annotations,
            **({f"{prefix}.hash": self.metadata.uid} if static else {}),
            f"{prefix}.seen": _SEEN,
            f"{prefix}.source": "file" if static else "api",
        }

    def _hostname(self) -> str:
        """``GeneratePodHostNameAndDomain`` and ``GetNodenameForKernel``."""
        spec = self.spec
        name = spec.text("hostnameOverride") or spec.text("hostname") or self.metadata.name
        name = name[:_LONGEST_HOSTNAME].rstrip("-.")
        subdomain = spec.text("subdomain")
        if spec.flag("setHostnameAsFQDN") and subdomain:
            name = f"{name}.{subdomain}.{self.metadata.namespace}.svc.cluster.local"
            if len(name) > _LONGEST_FQDN:
                spec.fail(
                    f"makes {name}, and the kernel takes {_LONGEST_FQDN} characters",
                    "setHostnameAsFQDN",
                )
        return name

    def _environment(self) -> Environment:
        metadata, assumptions = self.metadata, self.assumptions
        node_ip = self.status.text("hostIP") or assumptions.node_ip
        ips = [node_ip] if self._host_network else list(self.sandbox.ips)
        return Environment(
            labels=metadata.labels,
            annotations=self.sandbox.annotations,
            values={
                "metadata.name": metadata.name,
                "metadata.namespace": metadata.namespace,
                "metadata.uid": metadata.uid,
                "spec.nodeName": self.spec.text("nodeName") or assumptions.node_name,
                "spec.serviceAccountName": self._service_account(),
                "status.hostIP": node_ip,
                "status.hostIPs": node_ip,
                "status.podIP": ips[0],
                "status.podIPs": ",".join(ips),
            },
            namespace=metadata.namespace,
            amounts=self.amounts,
            assumptions=assumptions,
            objects=self.objects,
            services=service_env(
                self.objects.services,
                metadata.namespace,
                self.spec.flag("enableServiceLinks", True),
                assumptions,
                self.note,
            ),
        )

    def _account(self) -> Fields:
        """The ServiceAccount; empty if the documents do not have it."""
        name = (self.metadata.namespace, self._service_account())
        return self.objects.service_accounts.get(name, Fields({}, self.spec.source))

    def _service_account(self) -> str:
        if self.assumptions.static_pods:
            return ""
        spec = self.spec
        return spec.text("serviceAccountName") or spec.text("serviceAccount") or "default"


def _containers(spec: Fields) -> Iterator[tuple[Kind, Fields]]:
    """All containers in the order of their creation. Ephemeral ones come last, because users add them later."""
    names: set[str] = set()
    for key in ("initContainers", "containers", "ephemeralContainers"):
        if key == "containers" and not spec.data.get(key):
            spec.fail("has no containers: a pod needs at least one", key)
        for fields in spec.objects(key):
            name = fields.required("name", "name the container")
            if name in names:
                fields.fail(f"{name!r} is the name of another container, too", "name")
            names.add(name)
            yield _kind(key, fields), fields


def _kind(key: str, fields: Fields) -> Kind:
    if key != "initContainers":
        return Kind.ORDINARY if key == "containers" else Kind.EPHEMERAL
    return Kind.SIDECAR if fields.text("restartPolicy") == "Always" else Kind.INIT
