"""Requests for containers, by which the examples are compared with the plugins of the reference that they replace.

``reference.json`` has the answers of those plugins, by example and case. They were recorded from the plugins in Go
of revision 8ec8b28 (after v0.12.2), built from their sources, on the runtime side of v0.12.5
(``python -m tests.interop.record``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf import json_format

from nri_sync import api
from nri_sync.testing import make_container, make_pod

__all__ = [
    "CASES",
    "CONFIGURATIONS",
    "HOOKS",
    "MORE_OPTIONS",
    "MOUNTINFO",
    "OPTIONS",
    "REFERENCE",
    "Case",
    "as_recorded",
    "files",
    "recorded",
]

REFERENCE = Path(__file__).with_name("reference.json")


class Case(NamedTuple):
    annotations: dict[str, str] = {}  # noqa: RUF012
    container: dict[str, Any] = {}  # noqa: RUF012

    def messages(self) -> tuple[api.PodSandbox, api.Container]:
        pod = make_pod("pod0", annotations=self.annotations)
        return pod, make_container(pod, "c0", **self.container)


def of(key: str, text: str) -> Case:
    return Case({key: text})


#: The hooks of the cases, by the names of their files.
HOOKS: dict[str, Any] = {
    "always.json": {
        "version": "1.0.0",
        "hook": {"path": "/bin/sh", "args": ["sh", "-c", "true"], "env": ["A=B"], "timeout": 3},
        "when": {"always": True, "commands": ["^/always$"]},
        "stages": ["prestart", "poststop"],
    },
    "Bannotated.json": {
        "version": "1.0.0",
        "hook": {"path": "/bin/cat"},
        "when": {"annotations": {r"^hook\.example\.com$": "^(yes|both)$"}},
        "stages": ["createContainer", "startContainer", "poststart"],
    },
    "cold.json": {
        "hook": "/bin/ls",
        "arguments": ["-l"],
        "stages": ["createRuntime"],
        "cmds": ["/old$"],
        "annotations": ["^old$", "^both$"],
    },
    "never.json": {
        "version": "1.0.0",
        "hook": {"path": "/bin/false"},
        "when": {"always": False},
        "stages": ["poststop"],
    },
}

#: The mount of a host whose cgroups are delegated.
MOUNTINFO = (
    "25 1 0:22 / /sys rw shared:7 - sysfs sysfs rw\n"
    "32 25 0:28 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
)

#: Command lines. MOUNTINFO and HOOKS are a file and a directory that ``files`` makes.
OPTIONS: dict[str, list[str]] = {
    "logger": [
        *("--add-annotation", "added.example.com", "--set-annotation", "set.example.com"),
        *("--add-env", "ADDED", "--set-env", "SET"),
    ],
    "writable_cgroups": ["--host-mount-file", "MOUNTINFO"],
    "hook_injector": ["--hooks-dir", "HOOKS"],
}

#: The configuration file or the options by which our plugins allow the requests; the reference's have none.
CONFIGURATIONS: dict[str, Any] = {
    "device_injector": {
        "devices": ["[bc] *"], "cdi_devices": ["*"], "mounts": [{"source": "/home"}],
        "network_devices": ["*"], "sysctls": ["*"], "io_classes": ["*"],
        "scheduling_policies": ["*"], "memory_policies": ["*"],
    },
    "rdt": {"classes": ["*"], "schemata": ["*"]},
    "ulimit_adjuster": {"highest": {"NOFILE": 4096, "NPROC": 4096, "CORE": 4096, "MEMLOCK": 4096}},
}  # fmt: skip
MORE_OPTIONS: dict[str, list[str]] = {
    "writable_cgroups": ["--namespace", "*"],
    **{example: ["--config", f"{example}.json"] for example in CONFIGURATIONS},
}

DEV, OLD = "noderesource.dev", "nri.io"
CGROUP = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"}


def cgroup(*options: str) -> dict[str, Any]:
    return {"mounts": [api.Mount(**CGROUP, options=options)]}


CASES: dict[str, dict[str, Case]] = {
    "device_injector": {
        "nothing": Case(),
        "device": of(
            f"devices.{DEV}/container.c0",
            "- path: /dev/nri-null\n  type: c\n  major: 1\n  minor: 3\n",
        ),
        "device-all": of(
            f"devices.{DEV}",
            "[{path: /dev/a, type: b, major: 7, minor: 1, file_mode: 0640, uid: 3, gid: 4}]",
        ),
        "device-old": of(f"devices.{OLD}/pod", "[{path: /dev/a, type: c, major: 1, minor: 3}]"),
        "device-specific": Case({
            f"devices.{DEV}/pod": "[{path: /dev/pod, type: c}]",
            f"devices.{OLD}/container.c0": "[{path: /dev/c0, type: c}]",
        }),
        "device-other": of(f"devices.{DEV}/container.c1", "[{path: /dev/a, type: c}]"),
        "device-empty": of(f"devices.{DEV}", ""),
        "device-malformed": of(f"devices.{DEV}", "{path: /dev/a}"),
        "device-no-yaml": of(f"devices.{DEV}", "[{"),
        "device-quoted": of(f"devices.{DEV}", '[{path: /dev/a, type: c, major: "1"}]'),
        "cdi": of(f"cdi-devices.{DEV}", "[vendor0.com/device=a, vendor0.com/device=b]"),
        "cdi-old": of(f"cdi-devices.{OLD}/container.c0", "- vendor0.com/device=a"),
        "cdi-malformed": of(f"cdi-devices.{DEV}", "vendor0.com/device=a"),
        "mount": of(
            f"mounts.{DEV}/container.c0",
            "- source: /home\n  destination: /host-home\n  type: bind\n  options: [bind, ro]\n",
        ),
        "mount-malformed": of(f"mounts.{DEV}", "[{destination: /a, options: ro}]"),
        "io-priority": of(f"io-priority.{DEV}", "{class: IOPRIO_CLASS_RT, priority: 5}"),
        "io-priority-malformed": of(f"io-priority.{DEV}", "[IOPRIO_CLASS_RT]"),
        "scheduler": of(
            f"scheduling-policy.{DEV}",
            "policy: SCHED_DEADLINE\nruntime: 1000\ndeadline: 2000\nperiod: 3000\n"
            "flags: [SCHED_FLAG_RECLAIM, SCHED_FLAG_DL_OVERRUN]\n",
        ),
        "scheduler-fifo": of(f"scheduling-policy.{OLD}", "{policy: SCHED_FIFO, priority: 10}"),
        "scheduler-malformed": of(f"scheduling-policy.{DEV}", "{policy: SCHED_FIFO, nice: x}"),
        "net-device": of(f"network-devices.{DEV}", "[{hostIf: eth7, name: net0}, {hostIf: eth8}]"),
        "net-device-malformed": of(f"network-devices.{DEV}", "{hostIf: eth7}"),
        "sysctl": of(f"sysctl.{DEV}", "net.core.somaxconn: 512\nkernel.domainname: a\na.b: 1.5\nc.d: yes"),
        "sysctl-malformed": of(f"sysctl.{DEV}", "[net.core.somaxconn]"),
        "memory-policy": of(
            f"memory-policy.{DEV}",
            "{mode: MPOL_INTERLEAVE, nodes: '0,1', flags: [MPOL_F_STATIC_NODES]}",
        ),
        "memory-policy-number": of(f"memory-policy.{DEV}", "{mode: MPOL_BIND, nodes: 0}"),
        "memory-policy-unknown": of(f"memory-policy.{DEV}", "{mode: MPOL_NONE, nodes: '0'}"),
        "memory-policy-flag": of(f"memory-policy.{DEV}", "{mode: MPOL_BIND, flags: [MPOL_F]}"),
    },
    "ulimit_adjuster": {
        "nothing": Case(),
        "one": of(f"ulimits.{DEV}/container.c0", "- type: RLIMIT_NOFILE\n  hard: 1024\n  soft: 512\n"),
        "names": of(
            "ulimits.nri.containerd.io/container.c0",
            "[{type: nproc, hard: 2, soft: 2}, {type: rlimit_core, hard: 1}, {type: Memlock}]",
        ),
        "of-the-pod": of(f"ulimits.{DEV}", "[{type: nofile, hard: 1}]"),
        "empty": of(f"ulimits.{DEV}/container.c0", ""),
        "unknown": of(f"ulimits.{DEV}/container.c0", "[{type: nofiles, hard: 1}]"),
        "soft-above-hard": of(f"ulimits.{DEV}/container.c0", "[{type: nofile, hard: 1, soft: 2}]"),
        "malformed": of(f"ulimits.{DEV}/container.c0", "nofile: 1"),
        "negative": of(f"ulimits.{DEV}/container.c0", "[{type: nofile, hard: 1, soft: -1}]"),
    },
    "rdt": {
        "nothing": Case(),
        "all": Case({
            "closid.rdt.noderesource.dev/container.c0": "gold",
            "schemata.rdt.noderesource.dev/container.c0": "L3:0=ff;1=ff,MB:0=50",
            "enablemonitoring.rdt.noderesource.dev/container.c0": "true",
        }),
        "monitoring-off": of("enablemonitoring.rdt.noderesource.dev/container.c0", "F"),
        "other-container": of("closid.rdt.noderesource.dev/container.c1", "gold"),
        "unknown": of("colour.rdt.noderesource.dev/container.c0", "red"),
        "malformed": of("enablemonitoring.rdt.noderesource.dev/container.c0", "yes"),
    },
    "logger": {"marked": Case(container={"annotations": {"set.example.com": "x"}, "env": {"SET": "x"}})},
    "writable_cgroups": {
        "nothing": Case(container=cgroup("ro", "nosuid")),
        "read-only": Case({f"writable-cgroups.{DEV}": "true"}, cgroup("nosuid", "ro", "noexec")),
        "both": Case({f"writable-cgroups.{DEV}/pod": "true"}, cgroup("ro", "rw")),
        "writable": Case({f"writable-cgroups.{DEV}/container.c0": "true"}, cgroup("nosuid", "rw")),
        "not-this-one": Case(
            {f"writable-cgroups.{DEV}": "true", f"writable-cgroups.{DEV}/container.c0": "false"},
            cgroup("ro"),
        ),
        "other-text": Case({f"writable-cgroups.{DEV}": "True"}, cgroup("ro")),
    },
    "hook_injector": {
        "nothing": Case(container={"args": ["/x"]}),
        "always": Case(container={"args": ["/always"]}),
        "annotated": Case({"hook.example.com": "yes"}, {"args": ["/x"]}),
        "of-the-container": Case({}, {"args": ["/x"], "annotations": {"hook.example.com": "yes"}}),
        "overridden": Case(
            {"hook.example.com": "no"}, {"args": ["/x"], "annotations": {"hook.example.com": "yes"}}
        ),
        "old-command": Case(container={"args": ["/usr/old"]}),
        "all": Case({"hook.example.com": "both"}, {"args": ["/always"]}),
        "no-arguments": Case(container={"args": []}),
    },
    "template": {"nothing": Case()},
}  # fmt: skip


def files(scratch: Path) -> None:
    (scratch / "MOUNTINFO").write_text(MOUNTINFO)
    for example, config in CONFIGURATIONS.items():
        (scratch / f"{example}.json").write_text(json.dumps(config))
    (scratch / "HOOKS").mkdir()
    for name, hook in HOOKS.items():
        (scratch / "HOOKS" / name).write_text(json.dumps(hook))


def as_recorded(adjust: api.ContainerAdjustment | None) -> dict[str, Any]:
    """Return an adjustment in the form of ``reference.json``: without empty parts, and without process ids."""
    stripped = None if adjust is None else api.strip(adjust)
    if stripped is None:
        return {}
    text = json_format.MessageToJson(stripped, preserving_proto_field_name=True)
    found: dict[str, Any] = json.loads(re.sub(r"logger-pid-\d+", "logger-pid-0", text))
    return found


def recorded(example: str) -> dict[str, Any]:
    """Return the answers by case: ``{"adjust": ...}``, or ``{"error": text}``."""
    found: dict[str, Any] = json.loads(REFERENCE.read_text())[example]
    return found
