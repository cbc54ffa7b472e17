"""Registers at several indices, and logs the changes that the plugins between them have made."""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import signal
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Union

from google.protobuf.json_format import MessageToDict

import nri_sync
from nri_sync import api, kit
from nri_sync.kit.logs.dumps import as_text
from nri_sync.kit.logs.masking import Mask

__all__ = ["Differ", "Requests", "differences"]

logger = logging.getLogger("differ")
# Leaves out the values of *password*, *token* and similar names.
MASK = Mask()

Subject = Union[api.PodSandbox, api.Container]

# The number of requests that are kept. One that a plugin fails never reaches the next index, and is dropped later.
KEPT = 1000


class Requests:
    """The pods and containers that each index compares with: those of the index before. Thread-safe."""

    def __init__(self) -> None:
        self._seen: OrderedDict[tuple[str, str, str], Subject] = OrderedDict()
        self._lock = threading.Lock()

    def put(self, idx: str, event: str, subject: Subject) -> None:
        with self._lock:
            self._seen[idx, event, subject.id] = subject
            if len(self._seen) > KEPT:
                self._seen.popitem(last=False)

    def take(self, idx: str, event: str, subject: Subject) -> Subject | None:
        with self._lock:
            return self._seen.pop((idx, event, subject.id), None)


class Differ(nri_sync.Plugin):
    """One registration. The ``first`` one compares with nothing; ``after`` is the index of the next one."""

    def __init__(
        self,
        idx: str,
        after: str | None,
        requests: Requests,
        *,
        first: bool = False,
        verbose: int = 0,
        yaml: bool = False,
    ) -> None:
        self.idx, self.after, self.requests, self.first = idx, after, requests, first
        self.verbose, self.yaml = verbose, yaml

    def compare(
        self, event: str, pod: api.PodSandbox, container: api.Container | None = None
    ) -> None:
        subjects: list[tuple[str, Subject]] = [("pod", pod)]
        if container is not None:
            subjects.append(("container", container))
        for kind, subject in subjects:
            # An event of a container has both; so the pod's key contains the container, too.
            key = f"{event} {container.id if container else ''} {kind}"
            if self.first:
                if self.verbose > 0:
                    self.dump(event, kind, subject)
            else:
                earlier = self.requests.take(self.idx, key, subject)
                if earlier is not None:
                    self.show(event, kind, earlier, subject)
            if self.after:
                self.requests.put(self.after, key, subject)

    def show(self, event: str, kind: str, earlier: Subject, now: Subject) -> None:
        if self.verbose > 1:
            self.dump(event, f"{kind} before", earlier)
        lines = (
            text_differences(earlier, now)
            if self.yaml
            else differences(as_dict(MASK.message(earlier)), as_dict(MASK.message(now)))
        )
        for line in list(lines) or ["<no changes>"]:
            logger.info("[%s] %s: %s: %s", self.idx, event, kind, line)
        if self.verbose > 1:
            self.dump(event, f"{kind} after", now)

    def dump(self, event: str, kind: str, message: Any) -> None:
        logger.info("[%s] %s: %s:", self.idx, event, kind)
        for line in as_text(message, mask=MASK).splitlines():
            logger.info("[%s] %s:    %s", self.idx, event, line)

    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None:
        if self.verbose > 2:
            for subject in (*pods, *containers):
                self.dump("Synchronize", type(subject).__name__, subject)

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.compare("RunPodSandbox", pod)

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.compare("StopPodSandbox", pod)

    def remove_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.compare("RemovePodSandbox", pod)

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("CreateContainer", pod, container)

    def post_create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("PostCreateContainer", pod, container)

    def start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("StartContainer", pod, container)

    def post_start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("PostStartContainer", pod, container)

    def update_container(
        self, pod: api.PodSandbox, container: api.Container, resources: api.LinuxResources
    ) -> None:
        self.compare("UpdateContainer", pod, container)

    def post_update_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("PostUpdateContainer", pod, container)

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("StopContainer", pod, container)

    def remove_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.compare("RemoveContainer", pod, container)


def as_dict(message: Subject) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(message, preserving_proto_field_name=True)
    return found


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield a line for each value that differs: ``update: [args 0]: From: a -> To: b``."""
    if before == after:
        return
    if isinstance(before, list) and isinstance(after, list):
        before, after = dict(enumerate(before)), dict(enumerate(after))
    if isinstance(before, dict) and isinstance(after, dict):
        for key in {**before, **after}:
            yield from differences(before.get(key), after.get(key), f"{path} {key}")
    else:
        kind = "create" if before is None else "delete" if after is None else "update"
        yield f"{kind}: [{path.strip()}]: From: {before} -> To: {after}"


def text_differences(before: Subject, after: Subject) -> Iterator[str]:
    lines = difflib.unified_diff(
        as_text(before, mask=MASK).splitlines(),
        as_text(after, mask=MASK).splitlines(),
        lineterm="",
    )
    return (line for line in lines if not line.startswith(("---", "+++")))


def log_loss(stub: nri_sync.Stub, reason: Exception) -> None:
    logger.warning("%s", reason)


def indices(text: str) -> list[str]:
    found = [f"{int(item):02d}" for item in text.split(",")]
    if len(found) < 2 or found != sorted(set(found)):
        raise ValueError("expected two indices or more, in ascending order")
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--indices", type=indices, default="00,99", help="default %(default)s")
    parser.add_argument("--socket", help="the runtime's; default is /var/run/nri/nri.sock")
    parser.add_argument("--log-file", type=Path, help="where to log, instead of standard error")
    parser.add_argument("--verbose-level", type=int, default=0, choices=range(4), help="default 0")
    parser.add_argument("--yaml", action="store_true", help="lines of YAML that differ")
    options = parser.parse_args(argv)
    stream = None
    if options.log_file:
        # Readable for this user only: it contains the environment of all containers.
        os.close(os.open(options.log_file, os.O_WRONLY | os.O_CREAT, 0o600))
        stream = options.log_file.open("a")
    log = kit.setup_logging(stream=stream, plugin="differ")

    ends = {signal.SIGTERM, signal.SIGINT}
    # Blocked in this thread and, by inheritance, in all new ones, so that sigwait() gets the signals.
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)
    requests, done = Requests(), threading.Event()
    stubs: list[nri_sync.Stub] = []
    threads: list[threading.Thread] = []
    for idx, after in zip(options.indices, [*options.indices[1:], None]):
        differ = Differ(
            idx, after, requests, first=not stubs, verbose=options.verbose_level, yaml=options.yaml
        )
        stub = nri_sync.Stub(
            differ, name="differ", idx=idx, socket_path=options.socket, interceptors=[log]
        )
        how = {"stop_event": done, "on_disconnected": log_loss}
        thread = threading.Thread(target=nri_sync.run_forever, args=(stub,), kwargs=how)
        thread.start()
        threads.append(thread)
        stubs.append(stub)
    signal.sigwait(ends)
    done.set()
    for stub, thread in zip(stubs, threads):
        stub.stop(grace=1.0)
        thread.join()


if __name__ == "__main__":
    main()
