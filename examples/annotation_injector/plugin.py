"""Injects environment variables and CDI devices that pods request by annotation, if the configuration allows them.

Any author of a pod can write annotations. So the configuration lists the namespaces whose pods may request
injections, and the devices that they may have.
"""

from __future__ import annotations

import fnmatch
import logging
from dataclasses import dataclass, field
from typing import Literal

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import Reject

__all__ = ["AnnotationInjector", "Config"]

logger = logging.getLogger("annotation-injector")


def variables(text: str) -> dict[str, str]:
    """Parse the annotation ``env``: a mapping from names to texts, in YAML or JSON."""
    found = kit.parse_yaml(text)
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError('not a mapping from names to texts, such as {"DEBUG": "1"}')
    checked = api.Adjustment()
    for name, value in found.items():
        checked.add_env(name, value)
    return found


def devices(text: str) -> list[str]:
    """Parse the annotation ``cdi-devices``: names of CDI devices, separated by commas."""
    found = kit.parse_list(text)
    checked = api.Adjustment()
    for name in found:
        checked.add_cdi_device(name)
    return found


ANNOTATIONS = kit.Annotations("inject.example.com", exclusive=True)
ENV = ANNOTATIONS.declare("env", variables)
CDI_DEVICES = ANNOTATIONS.declare("cdi-devices", devices)


@dataclass
class Config:
    """The namespaces that may request injections, and the devices that they may have; patterns of a shell."""

    namespaces: list[str]
    cdi_devices: list[str] = field(default_factory=list)
    elsewhere: Literal["ignore", "refuse"] = "ignore"


class AnnotationInjector(nri_sync.Plugin):
    """Needs ``config``, which the program sets."""

    config: Config

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        ANNOTATIONS.warn(pod)

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        config = self.config
        if not any(annotation.find(pod, container) for annotation in ANNOTATIONS):
            return None
        # Not kit.Selector: without namespaces it would select all.
        if not any(fnmatch.fnmatchcase(pod.namespace, each) for each in config.namespaces):
            problem = f"pods of namespace {pod.namespace} may not request injections"
            if config.elsewhere == "refuse":
                raise Reject(problem)
            logger.warning("ignored: %s", problem)
            return None
        adjustment = api.Adjustment()
        for name, value in (ENV.get(pod, container) or {}).items():
            adjustment.add_env(name, value)
        for device in CDI_DEVICES.get(pod, container) or []:
            kit.require_allowed("device", device, config.cdi_devices)
            adjustment.add_cdi_device(device)
        return adjustment


PROGRAM = kit.Program(AnnotationInjector, config=Config, name="annotation-injector", idx="10")

if __name__ == "__main__":
    kit.main(PROGRAM)
