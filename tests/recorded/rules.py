"""The values that only a node knows: each kind with its reason. All other fields are compared."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

__all__ = ["OF_CRICTL", "RULES", "SUBSTITUTED", "Rule", "reason_of", "substituted"]

RECORDED, SIMULATED = "recorded", "simulated"


class Rule(NamedTuple):
    """Values to skip, by a pattern of paths. Both sides must have them, unless ``missing`` names a side."""

    pattern: str
    reason: str
    #: The side that may lack the values.
    missing: str = ""
    #: The request that sometimes lacks the values. If it has them, they are compared.
    at_times: str = ""


RULES = (
    # containerd sends the stop when it notices the end of the process, or at the end of the kubelet's call if that
    # is earlier. In that case the event lacks these values (``NotifyContainerExit``, ``StopContainer`` in
    # ``internal/cri/nri``).
    Rule(
        r"container\.(state|pid)", "stops that are sent before the exit", RECORDED, "StopContainer"
    ),
    Rule(r"pod\.pid", "sandboxes that are sent before the exit", SIMULATED, "StopPodSandbox"),
    Rule(r"(pod|container)\.pid", "process ids"),
    Rule(r"container\.(created|started|finished)_at", "times"),
    Rule(r"container\.annotations\[io\.kubernetes\.cri-o\.Created\]", "times"),
    Rule(r"pod\.annotations\[kubernetes\.io/config\.seen\]", "times"),
    Rule(r"pod\.labels\[(pod-template|controller-revision)-hash\]", "hashes of controllers"),
    Rule(r"pod\.labels\[(batch\.kubernetes\.io/)?controller-uid\]", "UIDs of controllers"),
    Rule(r"pod\.labels\[(batch\.kubernetes\.io/)?job-name\]", "names of jobs, by the minute"),
    Rule(r"container\.image\.(config_digest|digest)", "digests of images"),
    Rule(r"container\.annotations\[io\.kubernetes\.cri-o\.ImageRef\]", "digests of images"),
    Rule(
        r"pod\.annotations\[io\.kubernetes\.cri\.podsandbox\.image-name\]", "the image of sandboxes"
    ),
    Rule(r"container\.exit_code", "the ends of processes", RECORDED),
    Rule(r"container\.exit_code", "the ends of processes", SIMULATED),
    # A simulation leaves them out: see docs/manifests.md.
    Rule(r"container\.linux\.seccomp_policy\b.*", "rules of seccomp profiles", SIMULATED),
    Rule(r"container\.linux\.devices\b.*", "devices of the node", SIMULATED),
)
#: The output of crictl lacks these values, too.
OF_CRICTL = (
    *RULES,
    Rule(r"container\.image\.digest", "digests of images in no registry", SIMULATED),
    Rule(r"container\.labels\[org\.example\.role\]", "labels of images", SIMULATED),
)
#: Parts of texts that are random on a node, and equal in all places of one object. They are replaced by names, and
#: compared.
SUBSTITUTED = {
    r"(?<=/containers/)(?P<keep>[a-z0-9-]+/)[0-9a-f]{8}(?=$|\")": r"\g<keep><random>",
    r"(?<=kube-api-access-)[a-z0-9]{5}\b": "<random>",
    r"(?<=/netns/cni-)[0-9a-f-]{36}$": "<random>",
    r"(?<=/run/)(?P<kind>net|ipc|uts|pid)ns/[0-9a-f-]{36}$": r"\g<kind>ns/<random>",
    r"(?<=/storage/overlay/)[0-9a-f]{64}(?=/merged$)": "<layer>",
    r"(?<=/volumes/)[0-9a-f]{64}$": "<random>",
    r"(?<=/image-volumes/<pod id>/)[0-9a-f]{64}\b": "<digest>",
}


# Most paths and texts come again with each event of a container: searching them anew took half of the time.
@functools.cache
def reason_of(rules: tuple[Rule, ...], event: str, path: str, present: tuple[str, ...]) -> str:
    """The reason for skipping a value; "" if it is compared. ``present`` are the sides that have the value."""
    missing = {RECORDED, SIMULATED} - set(present)
    for rule in rules:
        allowed = {rule.missing}
        applies = missing <= allowed
        if rule.at_times:
            applies = missing == allowed and rule.at_times == event
        if applies and re.fullmatch(rule.pattern, path):
            return rule.reason
    return ""


def substituted(value: Any, names: Mapping[str, str]) -> Any:
    """A text (or each text in lists and objects) with ``names`` and the parts above replaced."""
    if isinstance(value, dict):
        return {substituted(k, names): substituted(v, names) for k, v in value.items()}
    if isinstance(value, list):
        return [substituted(item, names) for item in value]
    if not isinstance(value, str):
        return value
    for found, name in names.items():
        value = value.replace(found, name)
    return _without_random_parts(value)


@functools.cache
def _without_random_parts(text: str) -> str:
    for pattern, name in SUBSTITUTED.items():
        text = re.sub(pattern, name, text)
    return text
