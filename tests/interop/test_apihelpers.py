"""The helpers of nri_sync.api have the results of the Go package api, for arbitrary arguments.

test_api_defects.py has the intended differences.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, Callable

import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from nri_sync import api
from nri_sync.api import (
    Adjustment,
    EventMask,
    Field,
    Owners,
    Update,
    Version,
    nri_pb2,
    optional,
    removal,
)
from nri_sync.api.strip import strip
from nri_sync.errors import OwnershipConflict, ValidationRejected
from tests.interop.gohelpers import GoHelpers, read, same, wire
from tests.interop.strategies import INT32, INT64, UINT32, UINT64, keys, messages, texts

__all__: list[str] = []

MANY = settings(max_examples=400)


@pytest.fixture(scope="module")
def go() -> Iterator[GoHelpers]:
    helpers = GoHelpers()
    yield helpers
    helpers.close()


# A call to Go: the method, its arguments, and the equivalent here.
Call = tuple[str, list[Any], Callable[[Any], object]]


def calls(
    method: str, ours: Callable[..., object], *arguments: st.SearchStrategy[Any]
) -> st.SearchStrategy[Call]:
    def call(values: tuple[Any, ...]) -> Call:
        args = [wire(value) if isinstance(value, Message) else value for value in values]
        return method, args, lambda builder: ours(builder, *values)

    return st.tuples(*arguments).map(call)


def memory(go_name: str, field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return calls(f"SetLinuxMemory{go_name}", lambda b, v: b.set_memory(**{field: v}), values)


def cpu(go_name: str, field: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Call]:
    return calls(f"SetLinuxCPU{go_name}", lambda b, v: b.set_cpu(**{field: v}), values)


# Values that a runtime accepts in most cases.
plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
paths = plain.map(lambda text: f"/{text}")
words = st.text("abAB._", min_size=1, max_size=5)
lists_of_cpus = st.sampled_from(["0", "0-3,8", "1,2", "5-5", "0-", ""])

RESOURCES = [
    memory("Limit", "limit", INT64),
    memory("Reservation", "reservation", INT64),
    memory("Swap", "swap", INT64),
    memory("Kernel", "kernel", INT64),
    memory("KernelTCP", "kernel_tcp", INT64),
    memory("Swappiness", "swappiness", UINT64),
    calls("SetLinuxMemoryDisableOomKiller", lambda b: b.set_memory(disable_oom_killer=True)),
    calls("SetLinuxMemoryUseHierarchy", lambda b: b.set_memory(use_hierarchy=True)),
    cpu("Shares", "shares", UINT64),
    cpu("Quota", "quota", INT64),
    cpu("Period", "period", st.integers(0, 1_100_000)),
    cpu("RealtimeRuntime", "realtime_runtime", INT64),
    cpu("RealtimePeriod", "realtime_period", UINT64),
    cpu("SetCPUs", "cpus", lists_of_cpus),
    cpu("SetMems", "mems", lists_of_cpus),
    calls("SetLinuxPidLimits", lambda b, v: b.set_pids_limit(v), INT64),
    calls(
        "AddLinuxHugepageLimit",
        lambda b, s, v: b.add_hugepage_limit(s, v),
        st.sampled_from(["2MB", "1GB", "64KB", "2Mi"]),
        UINT64,
    ),
    calls("SetLinuxBlockIOClass", lambda b, v: b.set_blockio_class(v), texts),
    calls("SetLinuxRDTClass", lambda b, v: b.set_rdt_class(v), texts),
    calls(
        "AddLinuxUnified",
        lambda b, k, v: b.set_unified(k, v),
        st.sampled_from(["memory.high", "cpu.max", "a/b.c", "x"]),
        texts,
    ),
]


def add_mount(adjustment: Adjustment, mount: api.Mount) -> None:
    adjustment.add_mount(
        mount.destination, source=mount.source, type=mount.type, options=mount.options
    )


def add_device(adjustment: Adjustment, device: api.LinuxDevice) -> None:
    adjustment.add_device(
        device.path,
        device.type,
        device.major,
        device.minor,
        file_mode=optional.get(device, "file_mode"),
        uid=optional.get(device, "uid"),
        gid=optional.get(device, "gid"),
    )


def set_io_priority(adjustment: Adjustment, priority: api.LinuxIOPriority) -> None:
    adjustment.set_io_priority(getattr(priority, "class"), priority.priority)


def set_scheduler(adjustment: Adjustment, scheduler: api.LinuxScheduler) -> None:
    fields = ("nice", "priority", "flags", "runtime", "deadline", "period")
    adjustment.set_scheduler(
        scheduler.policy, **{field: getattr(scheduler, field) for field in fields}
    )


def unmarked(field: str) -> Callable[[Any], bool]:
    return lambda message: not getattr(message, field).startswith("-")


lists = st.lists(texts, max_size=3)

_entries = st.lists(st.builds("{}={}".format, words, plain), max_size=2)
hooks = st.builds(
    lambda stages: api.Hooks(**stages),
    st.dictionaries(
        st.sampled_from(list(api.Hooks.DESCRIPTOR.fields_by_name)),
        st.lists(
            st.builds(api.Hook, path=paths, args=st.lists(plain, max_size=2), env=_entries),
            max_size=2,
        ),
    ),
)
devices = st.builds(
    lambda device, path, type: api.LinuxDevice(
        path=path,
        type=type,
        major=device.major % 5000,
        minor=device.minor % 2_000_000,
        file_mode=device.file_mode if device.HasField("file_mode") else None,
        uid=device.uid if device.HasField("uid") else None,
    ),
    messages(api.LinuxDevice),
    paths,
    st.sampled_from("cbupa"),
)
namespaces = st.builds(
    api.LinuxNamespace,
    type=st.sampled_from(["pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time", "x"]),
    path=st.just("") | paths,
)
io_priorities = st.builds(
    lambda io_class, priority: api.LinuxIOPriority(**{"class": io_class, "priority": priority}),
    st.sampled_from(api.IOPrioClass.values()),
    st.integers(-1, 8),
)
_actions = st.sampled_from(["SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO", "SCMP_ACT_LOG", "x"])
seccomp_policies = st.builds(
    api.LinuxSeccomp,
    default_action=_actions,
    architectures=lists,
    flags=lists,
    listener_path=texts,
    syscalls=st.lists(
        st.builds(api.LinuxSyscall, names=st.lists(words, min_size=1, max_size=2), action=_actions),
        max_size=2,
    ),
)
schedulers = st.builds(
    api.LinuxScheduler,
    policy=st.sampled_from(api.LinuxSchedulerPolicy.values()),
    flags=st.lists(st.sampled_from(api.LinuxSchedulerFlag.values()), max_size=2),
    nice=st.integers(-21, 20),
    priority=st.sampled_from([0, 0, 1, 99, 100]),
    runtime=st.sampled_from([0, 0, 5]),
    deadline=st.sampled_from([0, 0, 6]),
    period=st.sampled_from([0, 0, 7]),
)

ADJUSTMENTS = [
    *RESOURCES,
    calls("AddAnnotation", lambda a, k, v: a.add_annotation(k, v), keys, texts),
    calls("RemoveAnnotation", lambda a, k: a.remove_annotation(k), texts),
    calls(
        "AddMount",
        add_mount,
        st.builds(
            lambda mount, path: api.Mount(
                destination=path, source=mount.source, type=mount.type, options=mount.options
            ),
            messages(api.Mount),
            paths,
        ),
    ),
    calls("RemoveMount", lambda a, k: a.remove_mount(k), paths),
    calls("AddEnv", lambda a, k, v: a.add_env(k, v), keys, texts),
    calls("RemoveEnv", lambda a, k: a.remove_env(k), texts),
    calls("SetArgs", lambda a, v: a.set_args(v), lists.filter(lambda v: v[:1] != [""])),
    calls("UpdateArgs", lambda a, v: a.replace_args(v), lists),
    calls("AddHooks", lambda a, v: a.add_hooks(v), hooks),
    calls(
        "AddRlimit",
        lambda a, t, h, s: a.add_rlimit(t, hard=h, soft=s),
        st.sampled_from(["RLIMIT_NOFILE", "RLIMIT_CORE", "core"]),
        UINT64,
        UINT64,
    ),
    calls("AddDevice", add_device, devices),
    calls("RemoveDevice", lambda a, k: a.remove_device(k), paths),
    calls(
        "AddCDIDevice",
        lambda a, v: a.add_cdi_device(v.name),
        st.builds(
            lambda *parts: api.CDIDevice(name="{}/{}={}".format(*parts)), words, words, words
        ),
    ),
    calls("AddOrReplaceNamespace", lambda a, v: a.set_namespace(v.type, v.path), namespaces),
    calls("RemoveNamespace", lambda a, v: a.remove_namespace(v.type), namespaces),
    calls(
        "AddLinuxNetDevice",
        lambda a, k, v: a.add_net_device(k, v.name),
        words,
        st.builds(api.LinuxNetDevice, name=words),
    ),
    calls("RemoveLinuxNetDevice", lambda a, k: a.remove_net_device(k), words),
    calls("SetLinuxCgroupsPath", lambda a, v: a.set_cgroups_path(v), texts),
    calls(
        "SetLinuxOomScoreAdj",
        lambda a, v: a.set_oom_score_adj(v),
        st.none() | st.integers(-1100, 1100),
    ),
    calls("SetLinuxIOPriority", set_io_priority, io_priorities),
    calls("SetLinuxSeccompPolicy", lambda a, v: a.set_seccomp_policy(v), seccomp_policies),
    calls("SetLinuxSysctl", lambda a, k, v: a.set_sysctl(k, v), keys, texts),
    calls("SetLinuxScheduler", set_scheduler, schedulers),
    calls("SetLinuxRDTClosID", lambda a, v: a.set_rdt(clos_id=v), texts),
    calls(
        "SetLinuxRDTSchemata",
        lambda a, v: a.set_rdt(schemata=v),
        st.lists(plain.map(lambda text: f"L3:{text}"), max_size=3),
    ),
    calls(
        "SetLinuxRDTEnableMonitoring", lambda a, v: a.set_rdt(enable_monitoring=v), st.booleans()
    ),
    calls("RemoveLinuxRDT", lambda a: a.remove_rdt()),
    calls(
        "SetLinuxMemoryPolicy",
        lambda a, m, n, *f: a.set_memory_policy(m, n, f),
        st.sampled_from(api.MpolMode.values()),
        st.sampled_from(["", "0", "0-1,3"]),
        st.sampled_from(api.MpolFlag.values()),
        st.sampled_from(api.MpolFlag.values()),
    ),
]


def carry_out(builder: Adjustment | Update, made: list[Call]) -> list[tuple[str, list[Any]]]:
    """Make the calls; returns those that are accepted. Go's helpers accept all."""
    accepted = []
    for method, args, ours in made:
        before = builder.message.SerializeToString(deterministic=True)
        try:
            ours(builder)
        except ValueError:
            assert builder.message.SerializeToString(deterministic=True) == before
        else:
            # Go appends an entry of an existing key, and a runtime rejects that.
            if builder.message.SerializeToString(deterministic=True) != before or not args:
                accepted.append((method, args))
    return accepted


def compare(go: GoHelpers, builder: Adjustment | Update, made: list[Call]) -> None:
    start = type(builder.message)()
    start.CopyFrom(builder.message)  # type: ignore[arg-type]
    accepted = carry_out(builder, made)
    if accepted:
        theirs, _ = go.each(start, accepted)
        assert same(builder.message, theirs)


@settings(max_examples=1000)
@given(st.lists(st.one_of(ADJUSTMENTS), min_size=1, max_size=6))
def test_adjustments(go: GoHelpers, made: list[Call]) -> None:
    compare(go, Adjustment(), made)


@settings(max_examples=40)
@given(st.data())
@pytest.mark.parametrize("number", range(len(ADJUSTMENTS)))
def test_each_adjustment(go: GoHelpers, number: int, data: st.DataObject) -> None:
    compare(go, Adjustment(), [data.draw(ADJUSTMENTS[number])])


@MANY
@given(texts.filter(bool), st.booleans(), st.lists(st.one_of(RESOURCES), max_size=6))
def test_updates(go: GoHelpers, container: str, ignore: bool, made: list[Call]) -> None:
    start: list[Call] = [("SetContainerId", [container], bool)]
    if ignore:
        start.append(("SetIgnoreFailure", [], bool))
    update = Update(container, ignore_failure=ignore)
    accepted = [call[:2] for call in start] + carry_out(update, made)
    theirs, _ = go.each(nri_pb2.ContainerUpdate(), accepted)
    assert same(update.message, theirs)


STRIPPED: list[type[Message]] = [
    *(nri_pb2.ContainerAdjustment, nri_pb2.ContainerUpdate, nri_pb2.Hooks),
    *(nri_pb2.LinuxContainerAdjustment, nri_pb2.LinuxContainerUpdate, nri_pb2.LinuxCPU),
    *(nri_pb2.LinuxIOPriority, nri_pb2.LinuxMemory, nri_pb2.LinuxMemoryPolicy, nri_pb2.LinuxPids),
    *(nri_pb2.LinuxRdt, nri_pb2.LinuxResources, nri_pb2.LinuxScheduler, nri_pb2.LinuxSeccomp),
]


@settings(max_examples=100)
@given(st.data())
@pytest.mark.parametrize("kind", STRIPPED)
def test_strip(go: GoHelpers, kind: type[Message], data: st.DataObject) -> None:
    message = data.draw(messages(kind))
    _, theirs = go.call(f"{kind.__name__}.Strip", wire(message))
    ours = strip(message)  # type: ignore[type-var]
    assert theirs is None if ours is None else same(ours, theirs)


@MANY
@given(messages(nri_pb2.LinuxResources))
def test_copies_of_resources(go: GoHelpers, resources: nri_pb2.LinuxResources) -> None:
    _, theirs = go.call("LinuxResources.Copy", wire(resources))
    assert same(copy.deepcopy(resources), theirs)


EVENTS = ["all", "pod", "podsandbox", "container", *(api.pretty_name(n) for n in range(16))]


@MANY
@given(st.lists(st.lists(st.sampled_from(EVENTS) | texts, max_size=3).map(",".join), max_size=3))
def test_event_masks_from_texts(go: GoHelpers, listed: list[str]) -> None:
    mask, error = go.call("ParseEventMask", *listed)
    if error is None:
        assert EventMask.parse(*listed) == mask
    else:
        with pytest.raises(ValueError, match="unknown event"):
            EventMask.parse(*listed)


@MANY
@given(st.integers(0, 2**31 - 1))
def test_texts_of_event_masks(go: GoHelpers, mask: int) -> None:
    assert go.call("EventMask.PrettyString", mask) == [str(EventMask(mask))]


@MANY
@given(INT32 | st.integers(0, 16))
def test_names_of_events(go: GoHelpers, number: int) -> None:
    assert go.call("Event.PrettyName", number) == [api.pretty_name(number)]


def accepts(check: Callable[[str], object], text: str) -> bool:
    try:
        check(text)
    except ValueError:
        return False
    return True


names = st.text("ab01-_.+/ é", max_size=5)


@MANY
@given(names | texts)
def test_identities(go: GoHelpers, text: str) -> None:
    assert accepts(api.check_name, text) == (go.call("CheckPluginName", text) == [None])
    assert accepts(api.check_index, text) == (go.call("CheckPluginIndex", text) == [None])


@MANY
@given(st.text("059a٣", max_size=3))
def test_indices(go: GoHelpers, text: str) -> None:
    assert accepts(api.check_index, text) == (go.call("CheckPluginIndex", text) == [None])


@MANY
@given(st.tuples(st.text("05a", min_size=1, max_size=3), names).map("-".join) | names)
def test_file_names(go: GoHelpers, text: str) -> None:
    idx, name, error = go.call("ParsePluginName", text)
    if error is None:
        assert api.parse_file_name(text) == (idx, name)
    else:
        assert not accepts(api.parse_file_name, text)


@MANY
@given(st.text("-a", max_size=4) | texts)
def test_marks_of_removal(go: GoHelpers, key: str) -> None:
    assert go.call("MarkForRemoval", key) == [removal.mark(key)]
    assert go.call("IsMarkedForRemoval", key) == list(removal.unmark(key))
    assert go.call("ClearRemovalMarker", key) == [removal.unmark(key).key]
    for message in (
        nri_pb2.Mount(destination=key),
        nri_pb2.KeyValue(key=key),
        nri_pb2.LinuxDevice(path=key),
        nri_pb2.LinuxNamespace(type=key),
    ):
        _, *theirs = go.call(f"{type(message).__name__}.IsMarkedForRemoval", wire(message))
        assert theirs == list(removal.unmark(key))


numbers = st.sampled_from(["0", "1", "2", "7", "02", "26", "99", "225", "18446744073709551616"])
suffixes = st.sampled_from(
    [
        *("", "-rc.1", "-0", "-01", "-225-ge9dc15b7a", "-225-ge9dc15b7a.m", "-1-gxyz", "-1-g"),
        *("-x-g1", "-rc.1-5-gabc", "+meta", "-225-gabc+meta", "-", "+", "-a..b", "-1-gabc-d"),
        *("-18446744073709551616-gabc", "-1-g10000000000000000", "-é"),
    ]
)
versions = st.builds(
    lambda parts, suffix: "v" + ".".join(parts) + suffix, st.lists(numbers, max_size=4), suffixes
)


def runtime_versions() -> list[tuple[str, str]]:
    """The versions around each release of the tables."""
    found = [("containerd", minor, patch) for minor in range(5, 9) for patch in range(32)]
    releases = [(runtime, f"v1.{minor}.{patch}") for runtime, minor, patch in found]
    releases += [("containerd", f"v2.{minor}.{patch}") for minor in range(4) for patch in range(8)]
    releases += [("cri-o", f"v1.{minor}.{patch}") for minor in range(25, 38) for patch in range(15)]
    return releases


# Go assigns pre-releases to the previous minor release. The module files of these have their own NRI release.
OWN_PRE_RELEASES = {(1, 7, 0), (2, 0, 0), (2, 2, 0)}


def has_its_own(version: str) -> bool:
    try:
        known = Version.parse(version)
    except ValueError:
        return False
    return not known.released and known[:3] in OWN_PRE_RELEASES


def is_unknown_to_go(runtime: str, version: str) -> bool:
    """Whether the release came after the table of the Go function, which returns its last row, v0.11.0."""
    try:
        return runtime == "containerd" and Version.parse(version) >= Version.parse("2.3.0")
    except ValueError:
        return False


def infer(go: GoHelpers, runtime: str, version: str) -> str | None:
    release, error = go.call("InferVersionFromRuntime", runtime, version)
    return None if error else release


@pytest.mark.parametrize("suffix", ["", "-rc.1", "-3-gabc", "+x"])
def test_inferred_versions(go: GoHelpers, suffix: str) -> None:
    for runtime, release in runtime_versions():
        version = release + suffix
        if runtime == "cri-o" and (release == "v1.34.0" or version == "v1.34.1-rc.1"):
            continue  # the Go function returns v0.10.0, but the module file of v1.34.0 has an older release
        if runtime == "containerd" and has_its_own(version):
            continue
        theirs = infer(go, runtime, version)
        if is_unknown_to_go(runtime, version):
            assert theirs == "v0.11.0"
            continue
        assert api.infer_nri_version(runtime, version) == theirs, version
        assert api.infer_nri_version(runtime, version[1:]) == theirs, version


@settings(max_examples=1000)
@given(st.sampled_from(["containerd", "cri-o", "Containerd", ""]), versions | texts)
def test_inferred_versions_of_any_text(go: GoHelpers, runtime: str, version: str) -> None:
    if not version.startswith("v") or has_its_own(version) or is_unknown_to_go(runtime, version):
        return
    given = version
    with contextlib.suppress(ValueError):
        # For the Go function, every package revision is a pre-release, or no version.
        known = Version.parse(version)
        version = f"v{known.major}.{known.minor}.{known.patch}"
        version += "" if known.released else "-alpha"
    theirs = infer(go, runtime, version)
    assert api.infer_nri_version(runtime, given) == theirs
    assert api.infer_nri_version(runtime, given[1:]) == theirs


OPTIONALS = [
    ("String", "string", texts, nri_pb2.LinuxResources, "rdt_class"),
    ("RepeatedString", "[]string", lists, nri_pb2.LinuxRdt, "schemata"),
    ("Int", "int", INT64, nri_pb2.Hook, "timeout"),
    ("UInt32", "uint32", UINT32, nri_pb2.LinuxDevice, "uid"),
    ("Int64", "int64", INT64, nri_pb2.LinuxMemory, "limit"),
    ("Int64", "int", INT64, nri_pb2.LinuxMemory, "limit"),
    ("UInt64", "uint64", UINT64, nri_pb2.LinuxCPU, "shares"),
    ("Bool", "bool", st.booleans(), nri_pb2.LinuxMemory, "use_hierarchy"),
    ("FileMode", "os.FileMode", UINT32, nri_pb2.LinuxDevice, "file_mode"),
]


@settings(max_examples=100)
@given(st.data())
@pytest.mark.parametrize(("function", "kind", "values", "message", "field"), OPTIONALS)
def test_optional_values(
    go: GoHelpers,
    function: str,
    kind: str,
    values: st.SearchStrategy[Any],
    message: Callable[[], Message],
    field: str,
    data: st.DataObject,
) -> None:
    value = data.draw(values)
    (theirs,) = go.call(function, {"type": kind, "value": value})
    ours = message()
    optional.put(ours, field, value)
    assert same(getattr(ours, field), theirs)
    _, got = go.call(f"{getattr(ours, field).DESCRIPTOR.name}.Get", theirs)
    # Go writes an empty list as null.
    assert ([] if got is None else got) == optional.get(ours, field) == value


# The names of fields in Go's methods.
OWNED = {
    **{name: name for name in ("Env", "Namespace", "Sysctl", "Args", "PidsLimit", "CgroupsPath")},
    **{name: name for name in ("MemLimit", "MemReservation", "MemSwapLimit", "MemKernelLimit")},
    **{name: name for name in ("MemTCPLimit", "MemSwappiness", "MemDisableOomKiller")},
    **{name: name for name in ("MemUseHierarchy", "CPUShares", "CPUQuota", "CPUPeriod")},
    **{name: name for name in ("CPURealtimeRuntime", "CPURealtimePeriod", "CPUSetCPUs")},
    **{name: name for name in ("CPUSetMems", "BlockioClass", "RdtClass", "OomScoreAdj")},
    **{name: name for name in ("SeccompPolicy", "RdtClosID", "RdtSchemata", "MemoryPolicy")},
    **{name: name for name in ("RdtEnableMonitoring", "CgroupsUnified")},
    "Annotations": "Annotation",
    "Mounts": "Mount",
    "Devices": "Device",
    "CdiDevices": "CdiDevice",
    "HugepageLimits": "HugepageLimit",
    "Rlimits": "Rlimit",
    "IoPriority": "IOPriority",
    "LinuxNetDevices": "LinuxNetDevice",
    "LinuxSched": "LinuxScheduler",
    "OciHooks": "Hooks",
}


def test_all_fields_have_owners() -> None:
    assert set(OWNED) == set(Field.keys()) - {"None"}


owned = st.tuples(
    st.sampled_from(["Claim", "Clear", "Owner"]),
    # Mostly the same few fields, so that there are conflicts.
    st.sampled_from([*OWNED, *(["Env", "Args", "OciHooks"] * 10)]),
    st.sampled_from(["c", "d"]),
    st.sampled_from(["", "k", "-k"]),
    st.sampled_from(["10-a", "20-b"]),
)


@settings(max_examples=1000)
@given(st.lists(owned, min_size=1, max_size=12))
def test_owners(go: GoHelpers, steps: list[tuple[str, str, str, str, str]]) -> None:
    calls: list[tuple[str, list[Any]]] = []
    ours: list[list[Any]] = []
    owners = Owners()
    for action, name, container, key, plugin in steps:
        field = Field.Value(name)
        keys = [key] if field in api.COMPOUND_FIELDS else []
        method = f"{OWNED[name]}Owner" if action == "Owner" else action + OWNED[name]
        calls.append((method, [container, *keys, *([] if action == "Owner" else [plugin])]))
        if action == "Owner":
            owner = owners.owner(container, field, *keys)
            ours.append([owner or "", owner is not None])
        elif action == "Clear":
            owners.clear(container, field, plugin, *keys)
            ours.append([])
        else:
            try:
                owners.claim(container, field, plugin, *keys)
                ours.append([None])
            except OwnershipConflict as error:
                what = f"{name} {error.key or ''}"
                ours.append(
                    [f'plugins "{error.plugin}" and "{error.other}" both tried to set {what}']
                )
    # In Go, an empty message has no maps, and the method panics. This message has them.
    start = nri_pb2.OwningPlugins()
    for container in ("c", "d"):
        start.owners[container].simple[0] = start.owners[container].compound[0].owners["-"] = ""
    theirs, results = go.each(start, calls)
    assert results == ours
    after = read(nri_pb2.OwningPlugins, theirs)
    for container in ("c", "d"):
        fields = after.owners[container]
        del fields.simple[0], fields.compound[0]
        assert fields == owners.message.owners[container]


def test_namespace_owners(go: GoHelpers) -> None:
    owners = Owners()
    owners.claim("c", Field.Namespace, "10-a", "pid")
    _, theirs, found = go.call("OwningPlugins.NamespaceOwners", wire(owners.message), "c")
    assert found
    assert theirs == owners.entries("c", Field.Namespace)


@given(st.lists(st.tuples(keys, keys), max_size=3))
def test_validation_requests(go: GoHelpers, plugins: list[tuple[str, str]]) -> None:
    response = nri_pb2.CreateContainerResponse(
        adjust=Adjustment().add_env("A", "1").message, update=[Update("d").message]
    )
    owners = Owners()
    owners.claim("c", Field.Env, "10-a", "A")
    request = api.validation_request(
        nri_pb2.PodSandbox(),
        nri_pb2.Container(),
        response,
        owners,
        [api.PluginId(idx, name) for idx, name in plugins],
    )
    theirs, _ = go.each(
        nri_pb2.ValidateContainerAdjustmentRequest(pod={}, container={}),
        [
            ("AddResponse", [wire(response)]),
            ("AddOwners", [wire(owners.message)]),
            *(("AddPlugin", [name, idx]) for idx, name in plugins),
        ],
    )
    assert same(request, theirs)
    _, by_name = go.call("ValidateContainerAdjustmentRequest.GetPluginMap", wire(request))
    assert set(by_name) == set(api.plugins_by_name(request))


@given(st.booleans(), texts)
def test_validation_results(go: GoHelpers, reject: bool, reason: str) -> None:
    response = nri_pb2.ValidateContainerAdjustmentResponse(reject=reject, reason=reason)
    _, error = go.call("ValidateContainerAdjustmentResponse.ValidationResult", wire(response), "v")
    try:
        api.check_validation(response, "v")
    except ValidationRejected:
        assert error is not None
    else:
        assert error is None


annotation_keys = st.sampled_from(["k", "k/pod", "k/container.c", "k/container.d", "l"])


@given(st.dictionaries(annotation_keys, texts), st.sampled_from(["c", "d", ""]))
def test_effective_annotations(go: GoHelpers, annotations: dict[str, str], container: str) -> None:
    pod = nri_pb2.PodSandbox(annotations=annotations)
    ours = api.effective_annotation(pod, "k", container)
    theirs = go.call("GetEffectiveAnnotation", wire(pod), "k", container)
    assert theirs == [ours or "", ours is not None]


@pytest.mark.parametrize(
    ("function", "ours"),
    [
        ("RequiredPluginsAnnotation", api.REQUIRED_PLUGINS),
        ("DefaultSocketPath", api.DEFAULT_SOCKET_PATH),
        ("PluginNameEnvVar", api.ENV_PLUGIN_NAME),
        ("PluginIdxEnvVar", api.ENV_PLUGIN_IDX),
        ("PluginSocketEnvVar", api.ENV_PLUGIN_SOCKET),
        ("DefaultRegistrationTimeout", api.DEFAULT_REGISTRATION_TIMEOUT),
        ("DefaultRequestTimeout", api.DEFAULT_REQUEST_TIMEOUT),
        ("SELinuxRelabel", api.SELINUX_RELABEL),
        ("UnlimitedPidsLimit", api.oci.UNLIMITED_PIDS),
    ],
)
def test_constants(go: GoHelpers, function: str, ours: object) -> None:
    assert go.call(function) == [ours]
