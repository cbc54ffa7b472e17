"""Logs the network namespace and the IP addresses of pods when they start, stop and are removed."""

from __future__ import annotations

import logging

from nri_sync import api, kit

__all__ = ["NetworkLogger"]

logger = logging.getLogger("network-logger")


class NetworkLogger:
    """Logs the network namespace and the IP addresses of pods when they start, stop and are removed."""

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        logger.info(
            "Synchronized state with the runtime (%d pods, %d containers)...",
            len(pods), len(containers),
        )  # fmt: skip
        for pod in pods:
            logger.info("pod %s: namespace=%s ips=%s", name(pod), namespace(pod), addresses(pod))

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info(
            "Started pod %s: namespace=%s ips=%s", name(pod), namespace(pod), addresses(pod)
        )

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        # The network namespace may be gone by now.
        logger.info("Stopped pod %s: ips=%s", name(pod), addresses(pod))

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        logger.info("Removed pod %s: ips=%s", name(pod), addresses(pod))


def name(pod: api.PodSandbox) -> str:
    return f"{pod.namespace}/{pod.name}"


def namespace(pod: api.PodSandbox) -> str:
    return kit.network_namespace(pod) or "<host-network>"


def addresses(pod: api.PodSandbox) -> str:
    return f"[{' '.join(pod.ips)}]"


PROGRAM = kit.Program(NetworkLogger, name="network-logger", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
