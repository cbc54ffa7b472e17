"""The volumes of a pod, their directories on the node, and the mounts of a container.

After Kubernetes v1.36, ``makeMounts`` in ``pkg/kubelet/kubelet_pods.go`` and the plugins in ``pkg/volume``.
"""

from __future__ import annotations

import posixpath
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from nri_sync.testing.manifests.containerd import STATE
from nri_sync.testing.manifests.cri import MountConfig
from nri_sync.testing.manifests.environment import expand_all
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.ids import container_id, uid

__all__ = ["TOKEN_PATH", "Volume", "Volumes"]

KUBELET = "/var/lib/kubelet/pods"
#: The directory in each container for the token of its service account.
TOKEN_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"

# By the key of the source: the name of the plugin, and whether its volumes are read-only.
_PLUGINS = {
    "emptyDir": ("empty-dir", False),
    "configMap": ("configmap", True),
    "secret": ("secret", True),
    "projected": ("projected", True),
    "downwardAPI": ("downward-api", True),
    "nfs": ("nfs", False),
    "iscsi": ("iscsi", False),
    "fc": ("fc", False),
    "gitRepo": ("git-repo", False),
}
# For a PersistentVolume: the name of the plugin, by the key of the source.
_PERSISTENT = {"nfs": "nfs", "iscsi": "iscsi", "fc": "fc", "local": "local-volume"}
_PROPAGATIONS = {
    "None": "rprivate",
    "HostToContainer": "rslave",
    "Bidirectional": "rshared",
}

Note = Callable[[str], object]


@dataclass(frozen=True)
class Volume:
    """The place of a volume on the node."""

    path: str
    readonly: bool = False
    #: The PersistentVolume, which gives sub-paths their names; "" for the name in the pod.
    inner_name: str = ""
    #: Whether the volume is an image, which the runtime mounts.
    image: bool = False


class Volumes:
    """The volumes of one pod, by name."""

    def __init__(
        self,
        spec: Fields,
        *,
        uid: str,
        namespace: str,
        pod_name: str,
        note: Note,
        sandbox_id: str = "",
        claims: Mapping[tuple[str, str], Fields] | None = None,
        persistent: Mapping[str, Fields] | None = None,
    ) -> None:
        """
        Args:
            note: called with each unknown.
            sandbox_id: of the pod.
            claims: PersistentVolumeClaims, by namespace and name.
            persistent: PersistentVolumes, by name.
        """
        self._directory = f"{KUBELET}/{uid}"
        self._namespace = namespace
        self._pod_name = pod_name
        self._note = note
        self._sandbox_id = sandbox_id
        self._claims = claims or {}
        self._persistent = persistent or {}
        self._volumes = {
            volume.required("name", "name the volume"): self._volume(volume)
            for volume in spec.objects("volumes")
        }

    def add(self, name: str, plugin: str) -> None:
        """Add a read-only volume that is not in the manifest."""
        self._volumes[name] = Volume(self._path(plugin, name), readonly=True)

    def claim(self, name: str) -> None:
        """Add a volume of a StatefulSet's template."""
        self._volumes[name] = self._claimed(f"{name}-{self._pod_name}")

    def _path(self, plugin: str, name: str) -> str:
        return f"{self._directory}/volumes/kubernetes.io~{plugin}/{name}"

    def _volume(self, volume: Fields) -> Volume:
        name = volume.text("name")
        if "hostPath" in volume:
            host_path = volume.object("hostPath")
            return Volume(host_path.required("path", "name the path on the node"))
        for key, (plugin, readonly) in _PLUGINS.items():
            if key in volume:
                read = volume.object(key).flag("readOnly")
                return Volume(self._path(plugin, name), readonly or read)
        if "persistentVolumeClaim" in volume:
            claim = volume.object("persistentVolumeClaim")
            claimed = claim.required("claimName", "name the claim")
            return self._claimed(claimed, claim.flag("readOnly"))
        if "ephemeral" in volume:
            return self._claimed(f"{self._pod_name}-{name}")
        if "csi" in volume:
            readonly = volume.object("csi").flag("readOnly")
            return Volume(f"{self._path('csi', name)}/mount", readonly)
        if "image" in volume:
            # containerd mounts it, once for each image and pod (``mutateImageMount``).
            image = volume.object("image").text("reference")
            _, at, digest = image.rpartition("@sha256:")
            if not at:
                self._note(f"volume {name}: the digest of its image is made up")
            root = f"{STATE}/image-volumes/{self._sandbox_id}"
            return Volume(
                f"{root}/{digest if at else container_id('image', image)}", True, image=True
            )
        kinds = ", ".join(sorted(key for key in volume.data if key != "name" and key in volume))
        self._note(f"volume {name} ({kinds}): its path on the node is made up")
        return Volume(self._path(kinds.replace(", ", "-").lower(), name))

    def _claimed(self, claim: str, readonly: bool = False) -> Volume:
        known = self._claims.get((self._namespace, claim), Fields({}, ""))
        made_up = uid("claim", self._namespace, claim)
        name = known.object("spec").text("volumeName")
        # Provisioners use such names.
        name = name or f"pvc-{known.object('metadata').text('uid') or made_up}"
        spec = self._persistent.get(name, Fields({}, "")).object("spec")
        if "hostPath" in spec:
            return Volume(spec.object("hostPath").text("path"), readonly, name)
        for key, plugin in _PERSISTENT.items():
            if key in spec:
                return Volume(self._path(plugin, name), readonly, name)
        if "csi" not in spec:
            self._note(f"claim {claim}: assumed to be bound to a volume of a CSI driver, {name}")
        return Volume(f"{self._path('csi', name)}/mount", readonly, name)

    def mounts(
        self, container: Fields, env: Mapping[str, str], *, hosts: bool, termination_log: str
    ) -> list[MountConfig]:
        """The mounts of a container that the kubelet makes.

        Args:
            container: an entry of ``spec.containers``.
            env: for references in ``subPathExpr``.
            hosts: whether the kubelet manages an /etc/hosts for the container.
            termination_log: the host's file for the termination message of the container.
        """
        name = container.text("name")
        mounts = [
            self._mount(entry, name, number, env)
            for number, entry in enumerate(container.objects("volumeMounts"))
        ]
        if hosts and not any(mount.destination == "/etc/hosts" for mount in mounts):
            mounts.append(MountConfig("/etc/hosts", f"{self._directory}/etc-hosts"))
        last_words = container.text("terminationMessagePath")
        log = f"{self._directory}/containers/{name}/{termination_log}"
        mounts.append(MountConfig(_absolute(last_words), log))
        return mounts

    def _mount(
        self, entry: Fields, container: str, number: int, env: Mapping[str, str]
    ) -> MountConfig:
        name = entry.required("name", "name one of spec.volumes")
        destination = _absolute(
            entry.required("mountPath", "name the path of the volume in the container")
        )
        if name not in self._volumes:
            known = ", ".join(self._volumes) or "none"
            entry.fail(f"there is no volume {name!r} in spec.volumes, which has: {known}", "name")
        volume = self._volumes[name]
        key = "subPath" if entry.text("subPath") else "subPathExpr"
        [below] = expand_all(entry, key, [entry.text(key)], env)
        if below.startswith("/") or ".." in below.split("/"):
            entry.fail(f"{below!r} must be a path inside of the volume", key)
        source = volume.path
        if below and volume.image:
            source = posixpath.join(volume.path, below)
        elif below:
            # The kubelet bind-mounts it there first, so that a symbolic link in the volume cannot lead elsewhere.
            inner_name = volume.inner_name or name
            source = f"{self._directory}/volume-subpaths/{inner_name}/{container}/{number}"
        propagation = entry.text("mountPropagation") or "None"
        if propagation not in _PROPAGATIONS:
            entry.fail(f"{propagation!r} is none of {', '.join(_PROPAGATIONS)}", "mountPropagation")
        readonly = entry.flag("readOnly")
        recursive = entry.text("recursiveReadOnly") in ("Enabled", "IfPossible")
        return MountConfig(
            destination,
            source,
            readonly=readonly or volume.readonly,
            recursive_readonly=readonly and recursive,
            propagation=_PROPAGATIONS[propagation],
        )


def _absolute(path: str) -> str:
    return path if path.startswith("/") else posixpath.join("/", path)
