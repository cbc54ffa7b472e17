"""Sets the RDT classes that annotations ask for: ``FIELD.rdt.noderesource.dev/container.NAME``."""

from __future__ import annotations

import logging

from nri_sync import api, kit

__all__ = ["Rdt"]

logger = logging.getLogger("rdt")

# A class is that of a container, never of a whole pod.
known = kit.Annotations(
    "rdt.noderesource.dev", forms=("{key}/container.{container}",), exclusive=True
)
CLOS_ID = known.declare("closid", str)
SCHEMATA = known.declare("schemata", kit.parse_list)
MONITORING = known.declare("enablemonitoring", kit.parse_bool)


class Rdt:
    """Sets resctrl classes, schemata and monitoring of containers, as annotations of their pods say."""

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        adjustment = api.Adjustment().set_rdt(
            clos_id=CLOS_ID.get(pod, container),
            schemata=SCHEMATA.get(pod, container),
            enable_monitoring=MONITORING.get(pod, container),
        )
        if adjustment.message.linux.HasField("rdt"):
            logger.info("set %s", " ".join(str(adjustment.message.linux.rdt).split()))
        return adjustment

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        known.warn(pod)


if __name__ == "__main__":
    kit.main(Rdt, name="rdt", idx="10")
