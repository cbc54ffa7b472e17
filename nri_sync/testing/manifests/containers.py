"""The containers of a Kubernetes Pod, in the form in which the kubelet passes them to containerd.

After Kubernetes v1.36, ``generateContainerConfig`` in ``pkg/kubelet/kuberuntime``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Callable

from nri_sync.kit.fields.images import ImageReference
from nri_sync.testing.manifests import ids
from nri_sync.testing.manifests.cri import ContainerConfig, MountConfig, SandboxConfig
from nri_sync.testing.manifests.environment import Environment, expand_all
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.lifecycle import go_json, lifecycle_handler
from nri_sync.testing.manifests.model import Assumptions, ImageConfig, Kind, WorkloadContainer
from nri_sync.testing.manifests.resources import ContainerAmounts, PodAmounts
from nri_sync.testing.manifests.runtimes import model_of
from nri_sync.testing.manifests.security import read_security
from nri_sync.testing.manifests.volumes import TOKEN_PATH, Volumes

__all__ = ["PodContext", "map_container"]

_UNKNOWN_COMMAND = "<the entrypoint of {}>"
_PREFIX = "io.kubernetes.container"

Note = Callable[[str], object]


@dataclass(frozen=True)
class PodContext:
    """The data that the containers of one pod share."""

    #: ``spec`` and ``status`` of the pod.
    spec: Fields
    status: Fields
    sandbox: SandboxConfig
    amounts: PodAmounts
    volumes: Volumes
    environment: Environment
    assumptions: Assumptions
    #: Empty if the documents do not have it.
    service_account: Fields


def map_container(
    pod: PodContext, fields: Fields, amounts: ContainerAmounts, note: Note
) -> WorkloadContainer:
    """The container of an entry of ``spec.containers``. Calls ``note`` with each unknown property.

    Raises ManifestError.
    """
    return _Container(pod, fields, amounts, note).mapped()


class _Container:
    def __init__(
        self, pod: PodContext, fields: Fields, amounts: ContainerAmounts, note: Note
    ) -> None:
        self.pod = pod
        self.fields = fields
        self.amounts = amounts
        self.note = note
        self.name = amounts.name
        self.image = fields.required("image", "name the image")
        images = pod.assumptions.images
        self.image_config = images.get(self.image) or images.get("*") or ImageConfig()

    def mapped(self) -> WorkloadContainer:
        config = self._config()
        self._note_devices()
        assumptions = self.pod.assumptions
        runtime = model_of(assumptions.runtime)
        message, spec = runtime.container(config, self.pod.sandbox, assumptions)
        resized = self.pod.amounts.resized_container(self.amounts, self.pod.assumptions)
        sizes = self.pod.amounts.sizes(self.amounts)
        return WorkloadContainer(message, self.amounts.kind, spec, resized.message(), sizes)

    def _config(self) -> ContainerConfig:
        fields, pod, image = self.fields, self.pod, self.image
        reference = self._reference()
        if self.image_config == ImageConfig():
            self.note(f"of image {image} is unknown: {', '.join(self._unknown())}")
        env = pod.environment.of(fields, self.amounts, self.note)
        digest = ids.container_id("image", image)
        id = self._id()
        return ContainerConfig(
            id=id,
            name=self.name,
            image=image,
            image_name=str(reference),
            image_digest=reference.digest or f"sha256:{digest}",
            image_id=f"sha256:{ids.container_id('image configuration', digest)}",
            args=self._args(env),
            env=env,
            cwd=fields.text("workingDir") or self.image_config.working_dir,
            labels={
                **pod.sandbox.identity,
                f"{_PREFIX}.name": self.name,
            },
            image_labels=self.image_config.labels,
            annotations=self._annotations(),
            image_env=self.image_config.env,
            image_volumes=self.image_config.volumes,
            mounts=self._mounts(id, env),
            resources=pod.amounts.container(self.amounts, pod.assumptions),
            security=read_security(
                pod.spec,
                fields,
                self.image_config,
                pod.assumptions,
                self.note,
                pod.sandbox.annotations,
            ),
            tty=fields.flag("tty"),
            target_pid=self._target(),
        )

    def _reference(self) -> ImageReference:
        """The image, in containerd's notation."""
        try:
            reference = ImageReference.parse(self.image)
        except ValueError as error:
            self.fields.fail(str(error), "image")
        bare = not reference.tag and not reference.digest
        return replace(reference, tag="latest") if bare else reference

    def _id(self) -> str:
        """The id of the existing container, if the pod exists; else a new id."""
        return self._id_of(self.name)

    def _id_of(self, name: str) -> str:
        for key in ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"):
            for known in self.pod.status.objects(key):
                _, _, id = known.text("containerID").partition("://")
                if known.text("name") == name and id:
                    return id
        sandbox = self.pod.sandbox
        return ids.container_id("container", sandbox.namespace, sandbox.name, sandbox.uid, name)

    def _target(self) -> int:
        """The process of the container that an ephemeral container debugs; 0 if it names none."""
        name = self.fields.text("targetContainerName")
        if self.amounts.kind is not Kind.EPHEMERAL or not name:
            return 0
        sandbox = self.pod.sandbox
        if sandbox.host_pid or sandbox.share_processes:
            return 0
        names = [item.name for item in self.pod.amounts.containers]
        if name not in names:
            self.fields.fail(f"there is no container {name!r} in the pod", "targetContainerName")
        self.note(f"the id of the process of {name}, whose PID namespace it joins, is made up")
        return ids.process_id(self._id_of(name))

    def _unknown(self) -> Iterator[str]:
        """The unknown properties, which only the image has."""
        yield "its variables"
        if not self.fields.texts("command"):
            yield "its command (a placeholder replaces it)"
        if not self.fields.text("workingDir"):
            yield "its working directory (assumed: /)"
        contexts = [item.object("securityContext") for item in (self.pod.spec, self.fields)]
        if not any("runAsUser" in context for context in contexts):
            yield "its user (assumed: 0)"
        yield "the groups in its /etc/group"

    def _args(self, env: dict[str, str]) -> list[str]:
        """``ExpandContainerCommandAndArgs`` of the kubelet, ``WithProcessArgs`` of containerd."""
        command, args = (
            expand_all(self.fields, key, self.fields.texts(key), env) for key in ("command", "args")
        )
        if command:
            return [*command, *args]
        image = self.image_config
        if not image.entrypoint and not image.cmd:
            return [_UNKNOWN_COMMAND.format(self.image), *args]
        return [*image.entrypoint, *(args or image.cmd)]

    def _annotations(self) -> dict[str, str]:
        """``newContainerAnnotations``."""
        fields = self.fields
        grace = self.pod.spec.integer("terminationGracePeriodSeconds")
        annotations = {
            f"{_PREFIX}.hash": ids.container_hash(self.name, self.image),
            f"{_PREFIX}.restartCount": "0",
            f"{_PREFIX}.terminationMessagePath": fields.text("terminationMessagePath"),
            f"{_PREFIX}.terminationMessagePolicy": fields.text("terminationMessagePolicy"),
            "io.kubernetes.pod.terminationGracePeriod": str(grace),
        }
        if "preStop" in fields.object("lifecycle"):
            handler = lifecycle_handler(fields.object("lifecycle", "preStop"))
            annotations[f"{_PREFIX}.preStopHandler"] = go_json(handler)
        ports = [self._port(port) for port in fields.objects("ports")]
        if ports:
            annotations[f"{_PREFIX}.ports"] = go_json(ports)
        return annotations

    def _port(self, port: Fields) -> dict[str, Any]:
        """A port in the encoding of Go, with the fields in the order of ``ContainerPort``."""
        written = {
            "name": port.text("name"),
            "hostPort": port.integer("hostPort"),
            "containerPort": port.integer("containerPort"),
            "protocol": port.text("protocol"),
            "hostIP": port.text("hostIP"),
        }
        return {k: v for k, v in written.items() if v or k == "containerPort"}

    def _mounts(self, id: str, env: dict[str, str]) -> list[MountConfig]:
        fields = self.fields
        mounted = {entry.text("mountPath") for entry in fields.objects("volumeMounts")}
        if self._wants_token() and TOKEN_PATH not in mounted:
            # Admission appends this volume.
            name = f"kube-api-access-{ids.short_name(5, self.pod.sandbox.uid)}"
            self.pod.volumes.add(name, "projected")
            token = {"name": name, "mountPath": TOKEN_PATH, "readOnly": True}
            entries = [*(fields.data.get("volumeMounts") or ()), token]
            fields = Fields({**fields.data, "volumeMounts": entries}, fields.source, fields.path)
        has_address = self.pod.sandbox.host_network or bool(self.pod.sandbox.ips)
        return self.pod.volumes.mounts(fields, env, hosts=has_address, termination_log=id[:8])

    def _wants_token(self) -> bool:
        """``shouldAutomount`` of admission: the pod's setting has precedence over its service account's."""
        if self.amounts.kind is Kind.EPHEMERAL:
            # An ephemeral container is added after admission has added its mounts to the other containers.
            return False
        by_account = self.pod.service_account.flag("automountServiceAccountToken", True)
        wanted = self.pod.spec.flag("automountServiceAccountToken", by_account)
        return wanted and not self.pod.assumptions.static_pods

    def _note_devices(self) -> None:
        """Note the devices of device plugins and drivers, which only the node knows."""
        resources = self.fields.object("resources")
        for name in (name for name in resources.quantities("limits") if "/" in name):
            self.note(f"the devices of the kubelet's device plugin for {name} are unknown")
        for claim in resources.objects("claims"):
            self.note(f"the devices of resource claim {claim.text('name')} are unknown")
        if list(self.fields.objects("volumeDevices")):
            self.note("its block devices are unknown")
