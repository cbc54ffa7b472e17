"""Gives containers a bundle of CA certificates, for connections to servers of a company.

The plugin mounts the directory of the bundle, and sets the variables of TLS libraries to the file in it. It does
not
mount the file: when a new file replaces it on the node, the container would keep the old one.
"""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import Reject

if TYPE_CHECKING:
    from prometheus_client import Metric

__all__ = ["CABundles", "Config"]

logger = logging.getLogger("ca-bundles")

ANNOTATIONS = kit.Annotations("ca.example.com", exclusive=True)
ENABLED = ANNOTATIONS.declare("enabled", kit.parse_bool)

# OpenSSL and Go; curl; Python's requests; Node.js; git; the SDKs of AWS.
VARIABLES = (
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "AWS_CA_BUNDLE",
)


@dataclass
class Config:
    """``bundle`` is a PEM file on the node, in its own directory, with all trusted CAs."""

    bundle: Path
    namespaces: list[str] = field(default_factory=list)
    mount_at: str = "/run/ca-bundles"
    variables: list[str] = field(default_factory=lambda: list(VARIABLES))
    system_files: list[str] = field(default_factory=list)
    without_bundle: Literal["inject nothing", "fail"] = "inject nothing"


class CABundles(nri_sync.Plugin):
    """Needs ``config``, which the program sets."""

    config: Config

    def __init__(self) -> None:
        self.injected = 0

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        ANNOTATIONS.warn(pod)

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        config = self.config
        wanted = ENABLED.get(pod, container)
        if wanted is None:
            wanted = bool(config.namespaces) and kit.Selector(namespaces=config.namespaces)(pod)
        if not wanted:
            return None
        problem = self.problem()
        if problem is not None:
            if config.without_bundle == "fail":
                raise Reject(problem)
            logger.warning("nothing is injected: %s", problem)
            return None

        adjustment = api.Adjustment()
        read_only = ["rbind", "ro", "nosuid", "nodev", "noexec"]
        source = str(config.bundle.parent)
        adjustment.add_mount(config.mount_at, source=source, type="bind", options=read_only)
        path = f"{config.mount_at}/{config.bundle.name}"
        kit.set_env(adjustment, container, dict.fromkeys(config.variables, path), keep_own=True)
        for path in config.system_files:
            file = str(config.bundle)
            adjustment.add_mount(path, source=file, type="bind", options=read_only)
        self.injected += 1
        return adjustment

    def problem(self) -> str | None:
        """Return why there is nothing to inject now; None if there is. Also a check of the health."""
        if not hasattr(self, "config"):
            return "there is no configuration yet"
        try:
            certificates = ssl.create_default_context(cafile=str(self.config.bundle))
        except (OSError, ssl.SSLError) as error:
            return f"{self.config.bundle}: {error}"
        return None if certificates.get_ca_certs() else f"{self.config.bundle}: no CA in it"

    def collect(self) -> Iterator[Metric]:
        """Yield the plugin's metrics, for a registry of ``prometheus_client``."""
        from prometheus_client.core import CounterMetricFamily

        yield CounterMetricFamily(
            "ca_bundles_injected", "Containers with an injected bundle.", self.injected
        )


def program() -> kit.Program:
    """Return the program with the plugin, and a health that depends on the bundle."""
    plugin = CABundles()
    registry = None
    with contextlib.suppress(
        ModuleNotFoundError
    ):  # without the extra `metrics` there are no metrics
        from prometheus_client import CollectorRegistry

        # Not the registry of the process, because a test may make several programs in one process.
        registry = CollectorRegistry()
        registry.register(plugin)
    health = kit.Health(checks=[plugin.problem], registry=registry)
    return kit.Program(plugin, config=Config, health=health, name="ca-bundles", idx="10")


if __name__ == "__main__":
    kit.main(program())
