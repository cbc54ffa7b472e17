"""Sets ``memory.high`` and other memory settings of cgroup v2 by annotation: by class, or each file by its own.

Annotations and configuration are those of the plugin memory-qos of github.com/containers/nri-plugins.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import Reject

__all__ = ["Class", "Config", "MemoryQoS"]

logger = logging.getLogger("memory-qos")

DOMAIN = "memory-qos.nri.io"


@dataclass
class Class:
    """A class of containers. Above ``1 - swap_limit_ratio`` of its memory limit, a container is swapped out."""

    name: str
    swap_limit_ratio: float = field(default=0.0, metadata={"key": "swaplimitratio"})

    def __post_init__(self) -> None:
        if not 0 <= self.swap_limit_ratio < 1:
            raise ValueError(f"swaplimitratio {self.swap_limit_ratio:g} is not between 0 and 1")

    def settings(self, container: api.Container) -> dict[str, str]:
        """Return the files of the container's cgroup, with their content."""
        if not self.swap_limit_ratio:
            return {}
        limit = api.optional.get(container.linux.resources.memory, "limit")
        if not limit or limit < 0:
            raise Reject(f"memory QoS class {self.name!r} needs a container with a memory limit")
        return {
            "memory.high": str(int(limit * (1 - self.swap_limit_ratio))),
            "memory.swap.max": "max",
        }


@dataclass
class Config:
    classes: list[Class] = field(default_factory=list)
    #: Files that a pod may set by an annotation, such as "memory.high".
    unified: list[str] = field(default_factory=list, metadata={"key": "unifiedannotations"})


class MemoryQoS(nri_sync.Plugin):
    """Needs ``config``, which the program sets."""

    config: Config

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        config = self.config
        classes = {item.name: item for item in config.classes}
        annotations = kit.Annotations(DOMAIN, forms=("{key}/{container}", "{key}"), exclusive=True)
        by_class = annotations.declare("class", kit.one_of(*classes))
        by_file = {name: annotations.declare(name, str) for name in config.unified}

        for key, likely in annotations.misspelt(pod).items():
            if key.endswith((DOMAIN, f"{DOMAIN}/{kit.container_name(container)}")):
                advice = f"; did you mean {likely}?" if likely else ""
                raise Reject(f"annotation {key} is not understood{advice}")
        name = by_class.get(pod, container)
        settings = {} if name is None else classes[name].settings(container)
        for file, annotation in by_file.items():
            text = annotation.get(pod, container)
            if text is not None:
                settings[file] = text
        if not settings:
            return None
        logger.info("class %s: %s", name, settings)
        adjustment = api.Adjustment()
        for file, text in settings.items():
            adjustment.set_unified(file, text)
        return adjustment


PROGRAM = kit.Program(MemoryQoS, config=Config, name="memory-qos", idx="40")

if __name__ == "__main__":
    kit.main(PROGRAM)
