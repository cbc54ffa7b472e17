"""Decides which images may run, by patterns, by digest, and by a verifier service. Fails open or closed."""

from __future__ import annotations

import fnmatch
import json
import logging
import urllib.request
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass, field
from typing import Literal

import nri_sync
from nri_sync import api, kit
from nri_sync.errors import Reject

__all__ = ["Config", "ImagePolicy", "Undecided"]

logger = logging.getLogger("image-policy")


class Undecided(Exception):
    """The plugin cannot decide whether an image may run."""


@dataclass
class Config:
    """``allow`` has patterns of repositories, for example ``registry.example.com/team/*``.

    ``require_digest`` requires a digest in the reference of the pod.
    """

    allow: list[str]
    fail: Literal["open", "closed"]
    require_digest: bool = False
    except_namespaces: list[str] = field(default_factory=lambda: ["kube-system"])
    verifier: str = ""
    verifier_timeout: kit.Duration = 1.0


class ImagePolicy(nri_sync.Plugin):
    """Needs ``config``, which the program sets."""

    config: Config

    def __init__(self) -> None:
        self._background = kit.Background(threads=16, name="verify")

    def on_stop(self) -> None:
        self._background.close(timeout=self.config.verifier_timeout)

    def create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        if not kit.Selector(except_namespaces=self.config.except_namespaces)(pod):
            return
        image = kit.container_image(container, pod)
        try:
            objection = self._objection(pod, image)
        except Undecided as error:
            if self.config.fail == "closed":
                raise Reject(f"image policy: refused, because it is undecided: {error}") from error
            logger.warning("allowed, although it is undecided: %s", error)
            return
        if objection is not None:
            # The pod's events show the exception of a handler.
            raise Reject(f"image policy: {objection}")

    def _objection(self, pod: api.PodSandbox, image: kit.ContainerImage) -> str | None:
        """Return why the image may not run; None if it may. Raises Undecided."""
        config = self.config
        if image.reference is None:
            raise Undecided("the runtime does not send the image's name")
        # Both must be allowed: the name in the pod, if the runtime sends it, and the name in the runtime.
        for reference in filter(None, (image.requested, image.reference)):
            if not any(fnmatch.fnmatchcase(reference.name, pattern) for pattern in config.allow):
                return f"{reference.name} is not allowed"
        if config.require_digest:
            # Not image.digest, which the runtime has for every tag.
            asked = image.requested or image.reference
            if asked.digest is None:
                return f"{asked} must be requested by its digest"
        return self._verified(pod, image) if config.verifier else None

    def _verified(self, pod: api.PodSandbox, image: kit.ContainerImage) -> str | None:
        question = {
            "namespace": pod.namespace,
            "image": str(image.reference),
            "digest": image.digest,
        }
        answer = self._background.submit(self._ask, json.dumps(question).encode())
        try:
            # The timeout of a socket applies to each of its operations. This one applies to all together.
            return answer.result(timeout=self.config.verifier_timeout)
        except (OSError, ValueError, LookupError, TypeError, TookTooLong) as error:
            raise Undecided(f"{self.config.verifier}: {error!r}") from error

    def _ask(self, question: bytes) -> str | None:
        request = urllib.request.Request(
            self.config.verifier, question, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=self.config.verifier_timeout) as response:
            answer = json.load(response)
        return None if answer["allowed"] is True else f"not verified: {answer.get('reason')}"


PROGRAM = kit.Program(
    ImagePolicy,
    config=Config,
    name="image-policy",
    idx="95",
    # A runtime that knows the failure policy also refuses requests that the plugin has not answered.
    failure_policy=api.FailurePolicy(fail_request=True, keep_connected=True),
)

if __name__ == "__main__":
    kit.main(PROGRAM)
