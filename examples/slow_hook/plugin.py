"""Fetches data for containers, which takes longer than a runtime waits for a plugin.

The plugin answers at once, and works in the background. An OCI hook waits for the result before the container
starts: hooks may take minutes, and only their own container waits for them.
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

# The hook runs on the node, which may have no Python. $1: the file with the result; $2: the number of attempts.
WAIT = """
tries=0
until [ -s "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -le "$2" ] || { echo "$1 did not appear in time" >&2; exit 1; }
    sleep 0.1
done
read -r outcome <"$1"
[ "$outcome" = ok ] || { echo "$outcome" >&2; exit 1; }
"""


def data_set(text: str) -> str:
    """Parse the annotation, which becomes the name of a directory."""
    if not re.fullmatch("[a-z0-9][a-z0-9.-]{0,62}", text):
        raise ValueError("not a name")
    return text


ANNOTATIONS = kit.Annotations("data.example.com", exclusive=True)
DATA = ANNOTATIONS.declare("set", data_set)


@dataclass
class Config:
    """The directories must have the same path on the node: hooks run there, and mounts come from there."""

    #: The command; its arguments are the name of the set and the directory to fill.
    command: list[str]
    #: Patterns of the names that pods may request. Any author of a pod can write the annotation.
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
        # Guards _work, the work for each set. Several containers may wait for one set.
        self._lock = threading.Lock()
        self._work: dict[str, Future[None]] = {}

    def on_config(self, config: Config) -> None:
        config.outcomes.mkdir(parents=True, exist_ok=True)

    def on_stop(self) -> None:
        self._background.close(timeout=5)

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        """Resume the work that hooks wait for, after a restart of the plugin."""
        by_id = {pod.id: pod for pod in pods}
        for container in containers:
            if container.state != api.ContainerState.CONTAINER_CREATED:
                continue
            try:
                name = DATA.get(by_id[container.pod_sandbox_id], container)
                if name is not None:
                    kit.require_allowed("data set", name, self.config.sets)
            except (KeyError, ValueError, PermissionError) as error:
                # One wrong pod must not fail the synchronization.
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
            # The container sees data that are fetched into the directory later.
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
        """Fetch the set in the background, then write the outcome for the hook. Returns the set's directory."""
        directory = self.config.data / name
        directory.mkdir(parents=True, exist_ok=True)
        outcome = self._outcome(container)
        with self._lock:
            work = self._work.get(name)
            if work is None or (work.done() and work.exception()):
                work = self._work[name] = self._background.submit(self._fetch, name, directory)
        work.add_done_callback(lambda done: _write_outcome(outcome, done))
        return directory

    def _fetch(self, name: str, directory: Path) -> None:
        complete = directory.with_name(f".{name}.complete")
        # The previous instance may still fetch the set: an update starts the new instance before the old one ends.
        with open(directory.with_name(f".{name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not complete.exists():
                logger.info("fetching %s", name)
                command = [*self.config.command, name, str(directory)]
                subprocess.run(command, check=True, timeout=self.config.timeout)
                complete.touch()


def _write_outcome(outcome: Path, done: Future[None]) -> None:
    """Write the file atomically: the hook sees all of it, or no file."""
    if done.cancelled():
        return  # the plugin stops; its next instance resumes the work
    error = done.exception()
    text = "ok" if error is None else " ".join(f"the data are missing: {error}".split())
    beside = outcome.with_name(f".{outcome.name}")
    beside.write_text(f"{text}\n")
    os.replace(beside, outcome)


PROGRAM = kit.Program(SlowHook, config=Config, name="slow-hook", idx="20")

if __name__ == "__main__":
    kit.main(PROGRAM)
