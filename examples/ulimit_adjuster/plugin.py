"""Sets the ulimits that pods request by annotation: ``ulimits.noderesource.dev/container.NAME``.

Any author of a pod can write annotations. So the configuration has the highest limit of each type.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import NotAllowed

__all__ = ["Config", "Ulimit", "UlimitAdjuster"]

logger = logging.getLogger("ulimit-adjuster")

# As in setrlimit(2), without the prefix.
TYPES = (
    "AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "MEMLOCK", "MSGQUEUE",
    "NICE", "NOFILE", "NPROC", "RSS", "RTPRIO", "RTTIME", "SIGPENDING", "STACK",
)  # fmt: skip
PREFIX = "RLIMIT_"


def canonical(type: str) -> str:
    """Return the name of a type in the specification. Raises ValueError for an unknown type."""
    name = type.upper()
    name = name[len(PREFIX) :] if name.startswith(PREFIX) else name
    if name not in TYPES:
        raise ValueError(f'failed to parse type: "{type}"; known are {", ".join(TYPES)}')
    return PREFIX + name


@dataclass
class Ulimit:
    type: str
    hard: int = 0
    soft: int = 0

    def __post_init__(self) -> None:
        self.type = canonical(self.type)
        if self.hard < self.soft:
            raise ValueError(f'ulimit "{self.type}" must have hard limit >= soft limit')
        if self.soft < 0:
            raise ValueError(f'ulimit "{self.type}" must not be negative')


# Limits apply to a container, never to a whole pod.
known = kit.Annotations(
    "noderesource.dev", "nri.containerd.io", forms=("{key}/container.{container}",)
)
ULIMITS = known.declare("ulimits", kit.document_of(list[Ulimit]))


@dataclass
class Config:
    """The highest hard limit that pods may request, by type. A type without a limit is not allowed."""

    highest: dict[str, int] = field(default_factory=dict)
    namespaces: list[str] = field(default_factory=lambda: ["*"])

    def __post_init__(self) -> None:
        self.highest = {canonical(type): limit for type, limit in self.highest.items()}

    def require(self, ulimit: Ulimit) -> None:
        """Raise PermissionError if the limit is too high, or its type is not allowed."""
        kit.require_allowed("ulimit", ulimit.type, self.highest)
        if ulimit.hard > self.highest[ulimit.type]:
            raise NotAllowed(
                f"{ulimit.type}: pods may have {self.highest[ulimit.type]}, not {ulimit.hard}"
            )


class UlimitAdjuster(nri_sync.Plugin):
    """Sets the ulimits of containers, as annotations of their pods request."""

    #: The program replaces it.
    config = Config()

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        adjustment = api.Adjustment()
        for ulimit in ULIMITS.get(pod, container) or ():
            kit.require_allowed("namespace", pod.namespace, self.config.namespaces)
            self.config.require(ulimit)
            adjustment.add_rlimit(ulimit.type, hard=ulimit.hard, soft=ulimit.soft)
            logger.info("%s: hard %d, soft %d", ulimit.type, ulimit.hard, ulimit.soft)
        return adjustment

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


PROGRAM = kit.Program(UlimitAdjuster, config=Config, name="ulimit-adjuster", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
