"""Equal repeated entries are merged. The error for different ones has the key and both values."""

from __future__ import annotations

from typing import Any, Callable

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from nri_sync.api import Adjustment, ContainerUpdate, Update, nri_pb2
from nri_sync.api.repeats import deduplicated, deduplicated_updates, has_distinct_keys, merged

__all__: list[str] = []

Call = Callable[[Any], Any]

# An entry, another entry of the same key, the text of the error for both, and the removal of the key.
KINDS: dict[str, tuple[Call, Call, str, Call | None]] = {
    "annotation": (
        lambda a: a.add_annotation("a", "1"),
        lambda a: a.add_annotation("a", "2"),
        "annotation 'a' is set twice, to different values: '1', then '2'",
        lambda a: a.remove_annotation("a"),
    ),
    "mount": (
        lambda a: a.add_mount("/a", source="/x", options=["ro"]),
        lambda a: a.add_mount("/a", source="/y"),
        (
            "mount at '/a' is set twice, to different values: "
            '\'destination: "/a" source: "/x" options: "ro"\', '
            'then \'destination: "/a" source: "/y"\''
        ),
        lambda a: a.remove_mount("/a"),
    ),
    "env": (
        lambda a: a.add_env("A", "1"),
        lambda a: a.add_env("A", "2"),
        (
            "environment variable 'A' is set twice, to different values: "
            '\'key: "A" value: "1"\', then \'key: "A" value: "2"\''
        ),
        lambda a: a.remove_env("A"),
    ),
    "rlimit": (
        lambda a: a.add_rlimit("RLIMIT_NOFILE", hard=1, soft=1),
        lambda a: a.add_rlimit("RLIMIT_NOFILE", hard=2, soft=1),
        (
            "rlimit 'RLIMIT_NOFILE' is set twice, to different values: "
            "'type: \"RLIMIT_NOFILE\" hard: 1 soft: 1', then 'type: \"RLIMIT_NOFILE\" hard: 2 soft: 1'"
        ),
        None,
    ),
    "device": (
        lambda a: a.add_device("/dev/x", "c", 1, 3),
        lambda a: a.add_device("/dev/x", "c", 1, 5),
        "device '/dev/x' is set twice, to different values: ",
        lambda a: a.remove_device("/dev/x"),
    ),
    "namespace": (
        lambda a: a.set_namespace("ipc"),
        lambda a: a.set_namespace("ipc", "/x"),
        (
            "namespace 'ipc' is set twice, to different values: "
            '\'type: "ipc"\', then \'type: "ipc" path: "/x"\''
        ),
        lambda a: a.remove_namespace("ipc"),
    ),
    "hugepage": (
        lambda a: a.add_hugepage_limit("2MB", 1),
        lambda a: a.add_hugepage_limit("2MB", 2),
        "limit of huge pages '2MB' is set twice, to different values: ",
        None,
    ),
    "sysctl": (
        lambda a: a.set_sysctl("a.b", "1"),
        lambda a: a.set_sysctl("a.b", "2"),
        "sysctl 'a.b' is set twice, to different values: '1', then '2'",
        lambda a: a.remove_sysctl("a.b"),
    ),
    "net device": (
        lambda a: a.add_net_device("eth1"),
        lambda a: a.add_net_device("eth1", "eth0"),
        "network device 'eth1' is set twice, to different values: 'nothing', then 'name: \"eth0\"'",
        lambda a: a.remove_net_device("eth1"),
    ),
    "unified": (
        lambda a: a.set_unified("memory.high", "1"),
        lambda a: a.set_unified("memory.high", "2"),
        "cgroup file 'memory.high' is set twice, to different values: '1', then '2'",
        None,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_setters(kind: str) -> None:
    one, other, text, remove = KINDS[kind]
    once = one(Adjustment()).message
    adjustment = one(one(Adjustment()))
    assert adjustment.message == once
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- compared whole
        other(adjustment)
    assert str(error.value).startswith(text)
    assert adjustment.message == once
    if remove is not None:
        # A removal takes an entry over from another plugin, and is not a repeated entry.
        assert remove(one(Adjustment())).message != once
        assert remove(remove(one(Adjustment()))).message == remove(one(Adjustment())).message
        one(remove(Adjustment()))


def test_cdi_devices_have_a_name_only() -> None:
    adjustment = Adjustment().add_cdi_device("v.com/c=1").add_cdi_device("v.com/c=1")
    assert [device.name for device in adjustment.message.CDI_devices] == ["v.com/c=1"]


def test_a_hook_twice_runs_twice() -> None:
    adjustment = Adjustment().add_hook("poststop", "/x").add_hook("poststop", "/x")
    assert len(adjustment.message.hooks.poststop) == 2
    assert deduplicated(adjustment.message) is adjustment.message


REPEATED = ("mount", "env", "rlimit", "device", "namespace", "hugepage")


def raw(*calls: Call) -> nri_pb2.ContainerAdjustment:
    """One message with the settings of all calls: repeated fields are concatenated."""
    message = nri_pb2.ContainerAdjustment()
    for call in calls:
        message.MergeFrom(call(Adjustment()).message)
    return message


@pytest.mark.parametrize("kind", REPEATED)
def test_raw_messages(kind: str) -> None:
    one, other, text, _ = KINDS[kind]
    message = raw(one, lambda a: a.set_oom_score_adj(5), one, one)
    before = message.SerializeToString()
    assert deduplicated(message) == raw(one, lambda a: a.set_oom_score_adj(5))
    assert message.SerializeToString() == before
    with pytest.raises(ValueError) as error:  # noqa: PT011 -- compared whole
        deduplicated(raw(one, one, other))
    assert str(error.value).startswith(text)


def test_an_adjustment_without_repeats_is_not_copied() -> None:
    ones = [KINDS[kind][0] for kind in REPEATED]
    removals = [KINDS[kind][3] for kind in REPEATED]
    message = raw(*ones, *(call for call in removals if call is not None))
    assert deduplicated(message) is message
    empty = nri_pb2.ContainerAdjustment()
    assert deduplicated(empty) is empty
    assert not empty.HasField("linux")


def test_raw_removals_have_no_value() -> None:
    message = nri_pb2.ContainerAdjustment()
    message.env.add(key="-A")
    message.env.add(key="-A", value="ignored")
    assert [entry.key for entry in deduplicated(message).env] == ["-A"]


def test_a_hundred_entries_keep_their_order() -> None:
    message = nri_pb2.ContainerAdjustment()
    for number in [*range(100), *range(100)]:
        message.env.add(key=f"A{number}", value="x")
    assert [entry.key for entry in deduplicated(message).env] == [f"A{n}" for n in range(100)]


def update(*calls: Call, id: str = "a", ignore: bool = False) -> ContainerUpdate:
    builder = Update(id, ignore_failure=ignore)
    for call in calls:
        call(builder)
    return builder.message


CPUS: Call = lambda u: u.set_cpu(cpus="1", shares=0)  # noqa: E731
MEMORY: Call = lambda u: u.set_memory(limit=5, use_hierarchy=False)  # noqa: E731
FILES: Call = lambda u: u.set_unified("a.b", "1").add_hugepage_limit("2MB", 1)  # noqa: E731
OTHERS: Call = lambda u: u.set_pids_limit(0).set_rdt_class("")  # noqa: E731


def test_updates_of_one_container_become_one() -> None:
    first, other = update(CPUS, FILES), update(CPUS, MEMORY, FILES, OTHERS)
    before = first.SerializeToString(), other.SerializeToString()
    both = update(CPUS, MEMORY, FILES, OTHERS)
    assert deduplicated_updates([first, first]) == [first]
    assert deduplicated_updates([first, update(id="b"), other]) == [both, update(id="b")]
    assert deduplicated_updates([other, first, other]) == [both]
    assert before == (first.SerializeToString(), other.SerializeToString())
    assert deduplicated_updates([]) == []


def test_ignore_failure_holds_if_both_have_it() -> None:
    ignoring = update(CPUS, ignore=True)
    assert merged(ignoring, ignoring).ignore_failure
    assert not merged(ignoring, update(CPUS)).ignore_failure
    assert not merged(update(CPUS), ignoring).ignore_failure


@pytest.mark.parametrize(
    ("one", "other", "text"),
    [
        (lambda u: u.set_cpu(cpus="1"), lambda u: u.set_cpu(cpus="2"), "'cpus' .* '1', then '2'"),
        (
            lambda u: u.set_cpu(shares=0),
            lambda u: u.set_cpu(shares=2),
            "'shares' .* 'nothing', then 'value: 2'",
        ),
        (
            lambda u: u.set_memory(limit=1),
            lambda u: u.set_memory(limit=2),
            "'limit' .* 'value: 1', then 'value: 2'",
        ),
        (
            lambda u: u.set_pids_limit(1),
            lambda u: u.set_pids_limit(0),
            "'pids' .* 'limit: 1', then 'nothing'",
        ),
        (
            lambda u: u.set_unified("a.b", "1"),
            lambda u: u.set_unified("a.b", "2"),
            "'a.b' .* '1', then '2'",
        ),
        (
            lambda u: u.add_hugepage_limit("2MB", 1),
            lambda u: u.add_hugepage_limit("2MB", 2),
            "'2MB'",
        ),
        (lambda u: u.set_rdt_class("a"), lambda u: u.set_rdt_class("b"), "'rdt_class'"),
    ],
)
def test_updates_that_differ(one: Call, other: Call, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        deduplicated_updates([update(one), update(other)])


def test_rules_for_devices_add_up() -> None:
    first, other = update(), update()
    for message, types in ((first, "ab"), (other, "bc")):
        for type in types:
            message.linux.resources.devices.add(type=type, access="r")
    both = merged(first, other)
    assert [rule.type for rule in both.linux.resources.devices] == ["a", "b", "c"]


def test_every_field_of_resources_is_joined() -> None:
    """If the protocol gets a new repeated field, this test has to cover it."""
    full = update(CPUS, MEMORY, FILES, OTHERS, lambda u: u.set_blockio_class("x"))
    full.linux.resources.devices.add(type="a", access="r")
    names = {field.name for field, _ in full.linux.resources.ListFields()}
    assert names == set(nri_pb2.LinuxResources.DESCRIPTOR.fields_by_name)
    empty: Message = ContainerUpdate(container_id="a")
    assert merged(update(), full) == merged(full, update()) == full
    assert empty == update()


def test_a_message_that_is_changed_elsewhere() -> None:
    adjustment = Adjustment().add_env("A", "1").add_env("B", "1")
    del adjustment.message.env[0]
    adjustment.add_env("A", "2")
    with pytest.raises(ValueError, match="'B' is set twice"):
        adjustment.add_env("B", "2")
    # The same number of entries, with other keys.
    adjustment.message.env[0].key = "C"
    adjustment.add_env("B", "2")
    assert {entry.key: entry.value for entry in adjustment.message.env} == {
        "A": "2",
        "B": "2",
        "C": "1",
    }
    on_top = Adjustment(adjustment.message)
    with pytest.raises(ValueError, match="'C' is set twice"):
        on_top.add_env("C", "2")


def test_many_entries_take_no_longer_than_few() -> None:
    """100,000 entries would take an hour if each entry were compared with all earlier ones."""
    adjustment = Adjustment()
    for number in range(100_000):
        adjustment.add_env(f"A{number}", "1")
    assert len(deduplicated(adjustment.message).env) == 100_000


KEYED_ENTRIES = st.sampled_from(["", "a", "b", "x" * 127, "y" * 128, "é" * 70])


@given(
    st.lists(
        st.tuples(st.sampled_from(["mounts", "env", "rlimits", "CDI_devices"]), KEYED_ENTRIES)
    ),
    st.lists(st.tuples(st.sampled_from(["devices", "namespaces", "hugepages"]), KEYED_ENTRIES)),
    st.integers(0, 20_000),
)
def test_distinct_keys_are_certain(
    entries: list[tuple[str, str]], linux: list[tuple[str, str]], padding: int
) -> None:
    adjustment = nri_pb2.ContainerAdjustment(args=["same", "same"])
    adjustment.annotations["padding"] = "x" * padding
    for field, key in entries:
        name = {"mounts": "destination", "env": "key", "rlimits": "type", "CDI_devices": "name"}
        getattr(adjustment, field).add(**{name[field]: key})
    for field, key in linux:
        if field == "hugepages":
            adjustment.linux.resources.hugepage_limits.add(page_size=key)
        elif field == "devices":
            adjustment.linux.devices.add(path=key)
        else:
            adjustment.linux.namespaces.add(type=key)
    certain = has_distinct_keys(adjustment, adjustment.SerializeToString())
    # Entries without a difference: deduplicated() never raises here.
    distinct = deduplicated(adjustment) is adjustment
    assert distinct or not certain
    common = all(0 < len(key.encode()) < 128 for _, key in entries) and padding < 16_000
    assert certain or not (distinct and common)


def test_distinct_keys_among_unknown_fields() -> None:
    adjustment = nri_pb2.ContainerAdjustment.FromString(b"\xa2\x06\x01x")
    assert not has_distinct_keys(adjustment, adjustment.SerializeToString())
    assert has_distinct_keys(nri_pb2.ContainerAdjustment(), b"")
