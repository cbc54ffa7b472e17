"""Logs every request in full; and marks containers with annotations or environment variables, if asked to."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from dataclasses import dataclass, field, fields
from typing import Any

import nri_sync
from nri_sync import api, kit
from nri_sync.kit.logs.dumps import as_text
from nri_sync.kit.logs.masking import Mask

__all__ = ["Config", "Logger"]

logger = logging.getLogger("logger")
# Values of *password*, *token* and the like are left out.
MASK = Mask()


@dataclass
class Config:
    """Of the file, of the runtime, and of options: what is set there counts in this order."""

    log_file: str = field(default="", metadata={"key": "logFile"})
    #: As ``EventMask.parse`` takes them: "pod", "createcontainer" ...; none means all.
    events: list[str] = field(default_factory=list)
    add_annotation: str = field(default="", metadata={"key": "addAnnotation"})
    set_annotation: str = field(default="", metadata={"key": "setAnnotation"})
    add_env: str = field(default="", metadata={"key": "addEnv"})
    set_env: str = field(default="", metadata={"key": "setEnv"})

    def or_else(self, other: Config) -> Config:
        names = [each.name for each in fields(self)]
        return Config(**{name: getattr(self, name) or getattr(other, name) for name in names})


class Logger(nri_sync.Plugin):
    """Logs every request in full."""

    config: Config

    def __init__(self, options: Config) -> None:
        self.options = options
        self.settings = options
        self.file: logging.FileHandler | None = None

    def on_config(self, config: Config) -> None:
        settings = config.or_else(self.options)
        nri_sync.EventMask.parse(*settings.events)
        self.log_to(settings.log_file)
        self.settings = settings

    def log_to(self, path: str) -> None:
        """Raises ValueError."""
        before = self.file
        if path == (before.baseFilename if before else ""):
            return
        if path:
            try:
                # For this user only: it gets the environment of all containers.
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
                self.file = logging.FileHandler(path)
            except OSError as error:
                raise ValueError(f'failed to open log file "{path}": {error}') from error
            self.file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            logger.addHandler(self.file)
        else:
            self.file = None
        logger.propagate = self.file is None
        if before:
            logger.removeHandler(before)
            before.close()

    def on_stop(self) -> None:
        self.log_to("")

    def configure(self, config: str, runtime: str, version: str) -> nri_sync.EventMask | None:
        logger.info("got configuration data: %r from runtime %s %s", config, runtime, version)
        names = self.settings.events
        return nri_sync.EventMask.parse(*names) if names else None

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        for pod in pods:
            dump("Synchronize", pod=pod)
        for container in containers:
            dump("Synchronize", container=container)

    def shutdown(self) -> None:
        dump("Shutdown")

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        dump("RunPodSandbox", pod=pod)

    def update_pod_sandbox(
        self, pod: api.PodSandbox, overhead: api.LinuxResources, resources: api.LinuxResources
    ) -> None:
        dump("UpdatePodSandbox", pod=pod, overhead=overhead, resources=resources)

    def post_update_pod_sandbox(self, pod: api.PodSandbox) -> None:
        dump("PostUpdatePodSandbox", pod=pod)

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        dump("StopPodSandbox", pod=pod)

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        dump("RemovePodSandbox", pod=pod)

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        dump("CreateContainer", pod=pod, container=container)
        settings, value = self.settings, f"logger-pid-{os.getpid()}"
        adjustment = api.Adjustment()
        if settings.add_annotation:
            adjustment.add_annotation(settings.add_annotation, value)
        if settings.set_annotation:
            # To remove it first takes it over from a plugin that has set it before.
            adjustment.remove_annotation(settings.set_annotation)
            adjustment.add_annotation(settings.set_annotation, value)
        if settings.add_env:
            adjustment.add_env(settings.add_env, value)
        if settings.set_env:
            adjustment.remove_env(settings.set_env).add_env(settings.set_env, value)
        return adjustment

    def post_create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("PostCreateContainer", pod=pod, container=container)

    def start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("StartContainer", pod=pod, container=container)

    def post_start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("PostStartContainer", pod=pod, container=container)

    def update_container(
        self, pod: api.PodSandbox, container: api.Container, resources: api.LinuxResources
    ) -> None:
        dump("UpdateContainer", pod=pod, container=container, resources=resources)

    def post_update_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("PostUpdateContainer", pod=pod, container=container)

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("StopContainer", pod=pod, container=container)

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        dump("RemoveContainer", pod=pod, container=container)

    def validate_container_adjustment(
        self, request: api.ValidateContainerAdjustmentRequest
    ) -> None:
        dump("ValidateContainerAdjustment", request=request)


def dump(event: str, **messages: Any) -> None:
    for name, message in messages.items():
        logger.info("%s: %s:", event, name)
        for line in as_text(message, mask=MASK).splitlines():
            logger.info("%s:    %s", event, line)


def events(text: str) -> list[str]:
    if not text:
        return []
    try:
        nri_sync.EventMask.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return [text]


def program(options: Config | None = None) -> kit.Program:
    """The plugin with options of the command line, which win over its configuration."""
    # Its validator only looks on: it may be left out.
    health = kit.Health(allow_unvalidated=True)
    return kit.Program(
        Logger(options or Config()), config=Config, health=health, name="logger", idx="10"
    )


def main() -> int:
    """Run until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=events, default=[], metavar="LIST")
    for name in ("log-file", "add-annotation", "set-annotation", "add-env", "set-env"):
        parser.add_argument(f"--{name}", default="", metavar="FILE" if "file" in name else "KEY")
    kit.add_options(parser, name="logger", idx="10")
    parsed = parser.parse_args()
    options = Config(**{each.name: getattr(parsed, each.name) for each in fields(Config)})
    return kit.run(program(options), kit.Options.of(parsed))


if __name__ == "__main__":
    sys.exit(main())
