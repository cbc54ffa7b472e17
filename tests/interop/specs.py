"""Random OCI specifications and adjustments, and the results of nri_sync."""

from __future__ import annotations

import base64
import copy
import random
from typing import Any, NamedTuple, Union

from nri_sync.api import ContainerAdjustment
from nri_sync.errors import SpecError
from nri_sync.runtime.oci import adjust_spec, host_propagation
from nri_sync.runtime.quoting import go_quote
from tests.interop.makers import Maker

__all__ = ["GenerateCase", "Generated", "forgive", "generate_case", "generated", "plain"]

Json = Union[dict[str, Any], list[Any], str, int, float, bool, None]

_BLOCKIO = {"x": {"weight": 10}}
_RDT = {"x": {"closID": "x", "l3CacheSchema": "L3:0=f"}}


class GenerateCase(NamedTuple):
    """An adjustment, the specification to apply it to, and the behaviour of the callbacks."""

    spec: dict[str, Any]
    adjust: ContainerAdjustment
    # Whether there are resolvers of classes, and an injector of CDI devices.
    classes: bool
    cdi: bool
    refuse: str
    filtered: list[str]

    def wire(self) -> dict[str, Any]:
        """The case in the format of `difftest/generate.go`."""
        return {
            "spec": self.spec,
            "adjust": base64.b64encode(self.adjust.SerializeToString()).decode(),
            "blockio": _BLOCKIO if self.classes else None,
            "rdt": _RDT if self.classes else None,
            "cdi": self.cdi,
            "refuse": self.refuse,
            "filtered": self.filtered,
        }

    def completed(self) -> GenerateCase:
        """The case with the fields without which Go would crash."""
        spec = copy.deepcopy(self.spec)
        for key in ("process", "linux"):
            spec.setdefault(key, {})
        return self._replace(spec=spec)


class Generated(NamedTuple):
    """The result of a case."""

    error: str = ""
    spec: Json = None
    cdi: Json = None
    checked: Json = None


def generate_case(number: int) -> GenerateCase:
    """The case with that number."""
    rng = random.Random(number)
    density = rng.choice([0.05, 0.2, 0.6])
    maker = Maker(rng, density, marks=rng.choice([0.0, 0.3, 0.6]))
    adjust = maker.make(ContainerAdjustment)
    if rng.random() < 0.05:
        adjust.linux.namespaces.add(type=rng.choice(["time", "foo", "-foo", ""]))
    return GenerateCase(
        spec=_spec(rng),
        adjust=adjust,
        classes=rng.random() < 0.7,
        cdi=rng.random() < 0.7,
        refuse="no" if rng.random() < 0.05 else "",
        filtered=["a", "-b"] if rng.random() < 0.3 else [],
    )


def _spec(rng: random.Random) -> dict[str, Any]:
    """A specification with random parts of all that adjustments can change."""

    def some(**values: Any) -> dict[str, Any]:
        return {key: value for key, value in values.items() if rng.random() < 0.6}

    hook = {"path": "/bin/hook"}
    return some(
        annotations={"a": "1", "c": "2"},
        process=some(
            args=["sh"],
            env=["b=old", "novalue", "a=1=2", "z=", "a=again"],
            rlimits=[{"type": "NOFILE", "hard": 1, "soft": 1}],
            oomScoreAdj=5,
            ioPriority={"class": "IOPRIO_CLASS_BE", "priority": 1},
            scheduler={"policy": "SCHED_OTHER"},
        ),
        hooks=some(prestart=[hook], poststop=[hook]),
        mounts=[
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/a/b", "source": "/x"},
            {"destination": "/a", "source": "/y"},
            {"destination": "/b", "source": "/y", "options": ["rw"]},
        ],
        linux=some(
            devices=[{"path": "/dev/b", "type": "c", "major": 1, "minor": 3}],
            namespaces=[{"type": "pid"}, {"type": "network", "path": "/n"}],
            sysctl={"a": "1"},
            netDevices={"a": {"name": "x"}},
            cgroupsPath="/old",
            rootfsPropagation=rng.choice(["rslave", "rshared", "private"]),
            seccomp={"defaultAction": "SCMP_ACT_ALLOW"},
            intelRdt={"closID": "old", "schemata": ["L3:0=1"]},
            memoryPolicy={"mode": "MPOL_BIND", "nodes": "0"},
            resources=some(
                cpu={"shares": 2, "cpus": "0"},
                memory={"limit": 3, "reservation": 2},
                pids={"limit": 10},
                hugepageLimits=[{"pageSize": "2MB", "limit": 1}],
                unified={"a": "1"},
                blockIO={"weight": 99},
                devices=[{"allow": False, "access": "rwm"}],
            ),
        ),
    )


def generated(case: GenerateCase) -> Generated:
    """The result of nri_sync for a case. Errors have the context that Go puts in front."""
    cdi: list[str] = []
    checked: list[Any] = []

    def filtered(entries: dict[str, str]) -> dict[str, str]:
        return {key: value for key, value in entries.items() if key not in case.filtered}

    def inject(spec: dict[str, Any], names: list[str]) -> None:
        cdi.extend(names)

    def check(resources: dict[str, Any] | None) -> None:
        checked.append(copy.deepcopy(resources))
        if case.refuse:
            raise SpecError(f"failed to adjust resources in OCI Spec: {case.refuse}")

    def blockio(name: str) -> dict[str, Any]:
        if name not in _BLOCKIO:
            raise SpecError(
                f"failed to adjust BlockIO class in OCI Spec: no class {go_quote(name)}"
            )
        return dict(_BLOCKIO[name])

    def rdt(name: str) -> dict[str, Any]:
        if name not in _RDT:
            raise SpecError(f"failed to adjust RDT class in OCI Spec: no class {go_quote(name)}")
        return dict(_RDT[name])

    before = copy.deepcopy(case.spec), case.adjust.SerializeToString(deterministic=True)
    error, spec = "", None
    try:
        spec = adjust_spec(
            case.spec,
            case.adjust,
            filter_annotations=filtered,
            inject_cdi=inject if case.cdi else None,
            resolve_blockio=blockio if case.classes else None,
            resolve_rdt=rdt if case.classes else None,
            check_resources=check,
            propagation_of=host_propagation,
        )
    except SpecError as caught:
        error = str(caught)
    assert before == (case.spec, case.adjust.SerializeToString(deterministic=True))
    return Generated(error, spec, plain(cdi or None), plain(checked[0] if checked else None))


def forgive(case: GenerateCase, mine: Generated, other: Generated) -> Generated:
    """Our result without the entries that Go has lost by chance.

    If a map has both a removal and a new entry of a key, Go walks it in random order, and loses the entry if the
    removal comes last.
    """
    annotations = set(case.adjust.annotations) - set(case.filtered)
    linux = case.adjust.linux
    ours, theirs = copy.deepcopy(mine.spec), other.spec
    for keys, path in (
        (annotations, ["annotations"]),
        (set(linux.sysctl), ["linux", "sysctl"]),
        (set(linux.net_devices), ["linux", "netDevices"]),
    ):
        left, kept = _at(ours, path), _at(theirs, path)
        for key in keys:
            if f"-{key}" in keys and key not in kept:
                left.pop(key, None)
        if not left and ours and path[-1] in (parent := _at(ours, path[:-1])):
            del parent[path[-1]]
    return mine._replace(spec=ours)


def _at(spec: Any, path: list[str]) -> dict[str, Any]:
    for key in path:
        spec = (spec or {}).get(key)
    return spec or {}


def plain(value: Json) -> Json:
    """A value without null and empty lists: Go writes either."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if item is not None and item != []}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value
