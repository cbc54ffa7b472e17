"""Fetches data for containers, which takes longer than a runtime waits for a plugin.

The plugin answers at once, and works in the background. The container's start waits for the outcome, in an
OCI hook: hooks may take minutes, and nothing else waits for them.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import subprocess
import threading
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import nri_sync
from nri_sync import api, kit

__all__ = ["Config", "SlowHook"]

logger = logging.getLogger("slow-hook")

# The hook runs on the node, where there may be no Python. $1: the file with the outcome; $2: how often to look.
WAIT = """
tries=0
until [ -s "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -le "$2" ] || { echo "$1 has not come in time" >&2; exit 1; }
    sleep 0.1
done
read -r outcome <"$1"
[ "$outcome" = ok ] || { echo "$outcome" >&2; exit 1; }
"""


def data_set(text: str) -> str:
    """The value of the annotation; it becomes the name of a directory."""
    if not re.fullmatch("[a-z0-9][a-z0-9.-]{0,62}", text):
        raise ValueError("not a name")
    return text


ANNOTATIONS = kit.Annotations("data.example.com", exclusive=True)
DATA = ANNOTATIONS.declare("set", data_set)


@dataclass
class Config:
    """The directories have to be the node's, under the same path: hooks and mounts are the node's business."""

    #: Is given the name, and the directory to fill.
    command: list[str]
    #: Patterns of the names that pods may ask for; any author of a pod can write the annotation.
    sets: list[str]
    data: Path = Path("/var/lib/slow-hook")
    outcomes: Path = Path("/run/slow-hook")
    mount_at: str = "/data"
    timeout: kit.Duration = 90.0


class SlowHook(nri_sync.Plugin):
    """Needs ``config``, which the program sets."""

    config: Config

    def __init__(self) -> None:
        self._background = kit.Background(threads=4, name="fetch")
        # Guards the work for each set: several containers may wait for one.
        self._lock = threading.Lock()
        self._work: dict[str, Future[None]] = {}

    def on_config(self, config: Config) -> None:
        config.outcomes.mkdir(parents=True, exist_ok=True)

    def on_stop(self) -> None:
        self._background.close(timeout=5)

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        """Go on with what hooks wait for still, if the plugin was restarted meanwhile."""
        by_id = {pod.id: pod for pod in pods}
        for container in containers:
            if container.state != api.ContainerState.CONTAINER_CREATED:
                continue
            try:
                name = DATA.get(by_id[container.pod_sandbox_id], container)
                if name is not None:
                    kit.require_allowed("data set", name, self.config.sets)
            except (KeyError, ValueError, PermissionError) as error:
                # One wrong pod must not keep the plugin from being synchronized.
                logger.warning("container %s: %s", container.id, error)
                continue
            if name is not None and not self._outcome(container).exists():
                self._fetch_for(container, name)

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        name = DATA.get(pod, container)
        if name is None:
            return None
        kit.require_allowed("data set", name, self.config.sets)
        directory = self._fetch_for(container, name)
        seconds = int(self.config.timeout)
        wait = ["sh", "-c", WAIT, "slow-hook", str(self._outcome(container)), str(seconds * 10)]
        return (
            api.Adjustment()
            # What is fetched into it later is seen inside.
            .add_mount(
                self.config.mount_at, source=str(directory), type="bind", options=["rbind", "ro"]
            )
            .add_hook(
                "create_runtime",
                "/bin/sh",
                args=wait,
                env=["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
                timeout=seconds + 5,
            )
        )

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self._outcome(container).unlink(missing_ok=True)

    def _outcome(self, container: api.Container) -> Path:
        return self.config.outcomes / container.id

    def _fetch_for(self, container: api.Container, name: str) -> Path:
        """Have the set fetched, and the container's hook told; returns its directory."""
        directory = self.config.data / name
        directory.mkdir(parents=True, exist_ok=True)
        outcome = self._outcome(container)
        with self._lock:
            work = self._work.get(name)
            if work is None or (work.done() and work.exception()):
                work = self._work[name] = self._background.submit(self._fetch, name, directory)
        work.add_done_callback(lambda done: _tell(outcome, done))
        return directory

    def _fetch(self, name: str, directory: Path) -> None:
        complete = directory.with_name(f".{name}.complete")
        # The instance before this one may still be at it: an update starts the next one before it ends.
        with open(directory.with_name(f".{name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.exists():
                logger.info("fetching %s", name)
                command = [*self.config.command, name, str(directory)]
                subprocess.run(command, check=True, timeout=self.config.timeout)
                complete.touch()


def _tell(outcome: Path, done: Future[None]) -> None:
    """The hook sees all of it, or nothing."""
    if done.cancelled():
        return  # the plugin is being stopped; the next one goes on
    error = done.exception()
    text = "ok" if error is None else " ".join(f"data are not there: {error}".split())
    beside = outcome.with_name(f".{outcome.name}")
    beside.write_text(f"{text}\n")
    os.replace(beside, outcome)


PROGRAM = kit.Program(SlowHook, config=Config, name="slow-hook", idx="20")

if __name__ == "__main__":
    kit.main(PROGRAM)
