"""Logs every request in full, and marks containers with annotations or environment variables on request."""

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
# Leaves out the values of *password*, *token* and similar names.
MASK = Mask()


@dataclass
class Config:
    """The settings of the file, of the runtime and of the options. The first source that has a value counts."""

    log_file: str = field(default="", metadata={"key": "logFile"})
    #: Names as ``EventMask.parse`` takes them: "pod", "createcontainer" ...; an empty list means all.
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
        """Log to a file, or to standard error if the path is empty. Raises ValueError."""
        before = self.file
        if path == (before.baseFilename if before else ""):
            return
        if path:
            try:
                # Readable for this user only: it contains the environment of all containers.
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
            # Removing it first takes it over from an earlier plugin.
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
    """Return the program. Options of the command line apply where the configuration has no value."""
    # Its validator only logs, so a runtime that cannot call it does not make the plugin unready.
    health = kit.Health(allow_unvalidated=True)
    return kit.Program(
        Logger(options or Config()), config=Config, health=health, name="logger", idx="10"
    )


def main() -> int:
    """Run until the program is stopped."""
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
