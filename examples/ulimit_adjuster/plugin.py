"""Sets the ulimits that annotations ask for: ``ulimits.noderesource.dev/container.NAME``."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from nri_sync import api, kit

__all__ = ["Ulimit", "UlimitAdjuster"]

logger = logging.getLogger("ulimit-adjuster")

# As in setrlimit(2), without the prefix.
TYPES = (
    "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE",
    "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
)  # fmt: skip
PREFIX = "RLIMIT_"


@dataclass
class Ulimit:
    type: str
    hard: int = 0
    soft: int = 0

    def __post_init__(self) -> None:
        name = self.type.upper()
        name = name[len(PREFIX) :] if name.startswith(PREFIX) else name
        if name not in TYPES:
            raise ValueError(f'failed to parse type: "{self.type}"; known are {", ".join(TYPES)}')
        self.type = PREFIX + name
        if self.hard < self.soft:
            raise ValueError(f'ulimit "{self.type}" must have hard limit >= soft limit')
        if self.soft < 0:
            raise ValueError(f'ulimit "{self.type}" must not be negative')


# Limits are those of a container, never of a whole pod.
known = kit.Annotations(
    "noderesource.dev", "nri.containerd.io", forms=("{key}/container.{container}",)
)
ULIMITS = known.declare("ulimits", kit.document_of(list[Ulimit]))


class UlimitAdjuster:
    """Sets the ulimits of containers, as annotations of their pods say."""

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        adjustment = api.Adjustment()
        for ulimit in ULIMITS.get(pod, container) or ():
            adjustment.add_rlimit(ulimit.type, hard=ulimit.hard, soft=ulimit.soft)
            logger.info("%s: hard %d, soft %d", ulimit.type, ulimit.hard, ulimit.soft)
        return adjustment

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


if __name__ == "__main__":
    kit.main(UlimitAdjuster, name="ulimit-adjuster", idx="10")
