"""Sets the RDT classes that pods request by annotation: ``FIELD.rdt.noderesource.dev/container.NAME``.

Any author of a pod can write annotations, and all containers of a class share it. So the configuration lists the
classes that pods may use, and the schemata that they may give to a class.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import nri_sync
from nri_sync import api, kit

__all__ = ["Config", "Rdt"]

logger = logging.getLogger("rdt")

# A class applies to a container, never to a whole pod.
known = kit.Annotations(
    "rdt.noderesource.dev", forms=("{key}/container.{container}",), exclusive=True
)
CLOS_ID = known.declare("closid", str)
SCHEMATA = known.declare("schemata", kit.parse_list)
MONITORING = known.declare("enablemonitoring", kit.parse_bool)


@dataclass
class Config:
    """Patterns of the values that pods may request; by default only a monitoring group."""

    namespaces: list[str] = field(default_factory=lambda: ["*"])
    classes: list[str] = field(default_factory=list)
    schemata: list[str] = field(default_factory=list)


class Rdt(nri_sync.Plugin):
    """Sets resctrl classes, schemata and monitoring of containers, as annotations of their pods request."""

    #: The program replaces it.
    config = Config()

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        config = self.config
        if any(annotation.find(pod, container) for annotation in known):
            kit.require_allowed("namespace", pod.namespace, config.namespaces)
        class_name = CLOS_ID.get(pod, container)
        if class_name is not None:
            kit.require_allowed("RDT class", class_name, config.classes)
        schemata = SCHEMATA.get(pod, container)
        for line in schemata or ():
            kit.require_allowed("RDT schema", line, config.schemata)
        adjustment = api.Adjustment().set_rdt(
            clos_id=class_name,
            schemata=schemata,
            enable_monitoring=MONITORING.get(pod, container),
        )
        if adjustment.message.linux.HasField("rdt"):
            logger.info("set %s", " ".join(str(adjustment.message.linux.rdt).split()))
        return adjustment

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


PROGRAM = kit.Program(Rdt, config=Config, name="rdt", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
