"""Pods and containers by crictl, from the requests that a kubelet would make for manifests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest import mock

from nri_sync.api.nri_pb2 import Container, PodSandbox
from nri_sync.testing.manifests import Assumptions, load, runtimes
from nri_sync.testing.manifests.cri import ContainerConfig, MountConfig, Resources, SandboxConfig

__all__ = ["Crictl", "Requested", "container_config", "requested", "sandbox_config"]

_TIMEOUT = 60.0
# NamespaceMode, SecurityProfile and MountPropagation of CRI.
_POD, _CONTAINER, _NODE = range(3)
_PROPAGATIONS = ("rprivate", "rslave", "rshared")


class Crictl:
    """The program, on a runtime. Each call blocks until the runtime has answered."""

    def __init__(self, program: Path, socket_path: Path, directory: Path) -> None:
        """``directory`` is for its files."""
        self._command = [str(program), "-r", f"unix://{socket_path}"]
        self._directory = directory

    def run(self, *arguments: str) -> str:
        command = [*self._command, *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
        )
        if done.returncode:
            raise RuntimeError(f"crictl {' '.join(arguments)} failed:\n{done.stderr}")
        return done.stdout.strip()

    def file(self, name: str, config: Mapping[str, Any]) -> str:
        """Where that is written to."""
        path = self._directory / name
        path.write_text(json.dumps(config))
        return str(path)

    def inspect(self, kind: str, id: str) -> Any:
        """The output of ``inspect`` or ``inspectp``."""
        return json.loads(self.run(kind, "-o", "json", id))


Requested = tuple[SandboxConfig, list[ContainerConfig]]


class _Keeping:
    """A runtime that keeps the requests, beside another."""

    def __init__(self, runtime: runtimes.RuntimeModel) -> None:
        self.requested: list[tuple[SandboxConfig, ContainerConfig]] = []
        self._runtime = runtime

    def pod(self, config: SandboxConfig, assumptions: Assumptions) -> PodSandbox:
        return self._runtime.pod(config, assumptions)

    def container(
        self, config: ContainerConfig, sandbox: SandboxConfig, assumptions: Assumptions
    ) -> tuple[Container, dict[str, Any]]:
        self.requested.append((sandbox, config))
        return self._runtime.container(config, sandbox, assumptions)


def requested(path: Path, assumptions: Assumptions) -> Requested:
    """The requests for the only pod of a manifest."""
    keeping = _Keeping(runtimes.model_of(assumptions.runtime))
    with mock.patch.dict(runtimes.MODELS, {assumptions.runtime: keeping}):
        [_] = load(path, assumptions=assumptions)
    return keeping.requested[0][0], [container for _, container in keeping.requested]


def sandbox_config(config: SandboxConfig) -> dict[str, Any]:
    """``PodSandboxConfig``, in JSON."""
    return {
        "metadata": {"name": config.name, "namespace": config.namespace, "uid": config.uid},
        "hostname": config.hostname,
        "log_directory": config.log_directory,
        "labels": config.labels,
        "annotations": config.annotations,
        "linux": {
            "cgroup_parent": config.cgroup_parent,
            "resources": _resources(config.resources),
            "overhead": _resources(config.overhead),
            "security_context": {"namespace_options": _namespaces(config)},
        },
    }


def _namespaces(sandbox: SandboxConfig) -> dict[str, int]:
    return {
        "network": _NODE if sandbox.host_network else _POD,
        "pid": _NODE if sandbox.host_pid else _POD if sandbox.share_processes else _CONTAINER,
        "ipc": _NODE if sandbox.host_ipc else _POD,
    }


def _resources(resources: Resources) -> dict[str, Any]:
    return {
        "cpu_period": resources.period,
        "cpu_quota": resources.quota,
        "cpu_shares": resources.shares,
        "memory_limit_in_bytes": resources.memory_limit,
        "memory_swap_limit_in_bytes": resources.swap_limit,
        "oom_score_adj": resources.oom_score_adj,
        "hugepage_limits": [
            {"page_size": size, "limit": limit} for size, limit in resources.huge_pages.items()
        ],
        "unified": resources.unified,
    }


def container_config(config: ContainerConfig, sandbox: SandboxConfig) -> dict[str, Any]:
    """``ContainerConfig``, in JSON."""
    security = config.security
    user: dict[str, Any] = {"run_as_user": {"value": security.user.uid}}
    if security.user.gid:
        user["run_as_group"] = {"value": security.user.gid}
    return {
        "metadata": {"name": config.name},
        "image": {"image": config.image, "user_specified_image": config.image},
        "command": config.args,
        "working_dir": config.cwd,
        "envs": [{"key": key, "value": value} for key, value in config.env.items()],
        "mounts": [_mount(mount) for mount in config.mounts],
        "labels": config.labels,
        "annotations": config.annotations,
        "log_path": f"{config.name}/0.log",
        "tty": config.tty,
        "linux": {
            "resources": _resources(config.resources),
            "security_context": {
                **user,
                "capabilities": {
                    "add_capabilities": security.add_capabilities,
                    "drop_capabilities": security.drop_capabilities,
                },
                "privileged": security.privileged,
                "namespace_options": _namespaces(sandbox),
                "readonly_rootfs": security.readonly_root,
                "supplemental_groups": security.supplemental_groups,
                "no_new_privs": security.no_new_privileges,
                "masked_paths": security.masked_paths,
                "readonly_paths": security.readonly_paths,
                "seccomp": {
                    "profile_type": security.seccomp.profile_type,
                    "localhost_ref": security.seccomp.localhost_ref,
                },
            },
        },
    }


def _mount(mount: MountConfig) -> dict[str, Any]:
    return {
        "container_path": mount.destination,
        "host_path": mount.source,
        "readonly": mount.readonly,
        "recursive_read_only": mount.recursive_readonly,
        "propagation": _PROPAGATIONS.index(mount.propagation),
    }
