"""The runtime merges the answers of several plugins, and reports conflicts, as nri_sync.runtime predicts.

Each test creates a :class:`nri_sync.runtime.Runtime` whose plugins are objects with the same answers. It sends
that runtime the requests that the real one has sent to its plugins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Callable

import grpc
import pytest

from nri_sync import api
from nri_sync.errors import ConflictError
from nri_sync.runtime import Runtime, oci
from tests.e2e.conftest import Connect, RunGo
from tests.e2e.cri import Container, Pod
from tests.e2e.inside import Inside
from tests.e2e.node import Node
from tests.interop.plugins import Recorder, Validator

__all__: list[str] = []

MIB = 1 << 20
feature = pytest.mark.feature

#: Answers by the full names of plugins.
Answers = Mapping[str, Any]
# Arguments of the plugin on the Go stub, which determine its answers.
GO = ("-env", "2", "-annotations", "2")
GO_NAME = "50-gostub"


def go_adjustment() -> api.Adjustment:
    adjustment = api.Adjustment()
    for number in range(2):
        adjustment.add_env(f"gostub_{number}", "value")
        adjustment.add_annotation(f"gostub/{number}", "value")
    return adjustment


def adjustments() -> dict[str, api.Adjustment]:
    """The adjustments of two plugins without conflicts, by full name. One replaces settings of others."""
    first = api.Adjustment().add_env("FIRST", "1").add_env("TAKEN", "1").add_annotation("py/a", "1")
    first.add_mount("/tmp/first", source="/tmp", type="bind", options=["rbind", "ro"])
    first.remove_mount("/dev/mqueue").add_device("/dev/first", "c", 1, 3)
    first.add_hook("poststop", "/bin/true", args=["true", "1"]).set_cpu(shares=200, cpus="0")
    first.add_rlimit("RLIMIT_CORE", soft=1, hard=2).set_memory(limit=64 * MIB)
    last = api.Adjustment().remove_env("TAKEN").add_env("TAKEN", "2").remove_env("gostub_0")
    last.remove_annotation("gostub/0").add_annotation("gostub/0", "taken")
    last.add_mount("/tmp/last", source="/tmp", type="bind", options=["rbind", "rw"])
    last.add_hook("poststop", "/bin/true", args=["true", "2"]).set_cpu(quota=40_000, period=90_000)
    last.set_oom_score_adj(700).set_pids_limit(77).add_device("/dev/last", "c", 1, 5)
    return {"10-first": first, "90-last": last}


def predict(
    answers: Answers, handler: str, *arguments: Any, observer: Recorder | None = None
) -> Any:
    """The predicted result of a request, whose method has the same name in plugins and runtimes.

    The observer is the last of the plugins.
    """
    plugins: dict[str, object] = {
        name: Recorder(**{handler: answer}) for name, answer in answers.items()
    }
    if observer is not None:
        plugins["99-observer"] = observer
    with Runtime(
        "prediction",
        "1",
        synchronize=lambda sync: sync([], []),
        update_containers=lambda updates, evictions: [],
        socket_path=None,
        plugin_path=None,
        plugins=plugins,
    ) as runtime:
        return getattr(runtime, handler)(*arguments)


def asked(observer: Recorder, handler: str) -> tuple[Any, ...]:
    """The arguments of the next call of the handler."""
    while (call := observer.next_call())[0] != handler:
        pass
    return call[1]


@pytest.fixture
def connect_all(connect: Connect, run_go: RunGo) -> Callable[..., None]:
    """Connects the plugins of these names to the real runtime, some of them on the Go stub."""

    def connect_all(answers: Answers, handler: str = "create_container") -> None:
        for full_name, answer in answers.items():
            if full_name == GO_NAME:
                run_go(*GO)
            else:
                idx, _, name = full_name.partition("-")
                connect(Recorder(**{handler: answer}), idx=idx, name=name)

    return connect_all


class TestMerging:
    @pytest.fixture
    def answers(self) -> dict[str, Any]:
        return {**adjustments(), GO_NAME: go_adjustment()}

    @feature("Several plugins: each sees what nri_sync.runtime predicts")
    def test_the_last_plugin_sees_the_changes_of_all_others(
        self, pod: Pod, connect: Connect, connect_all: Callable[..., None], answers: Answers
    ) -> None:
        first, last, predicted = Recorder(), Recorder(), Recorder()
        connect(first, idx="00", name="first")
        connect_all(answers)
        connect(last, idx="99", name="observer")
        pod.create()
        untouched = first.expect("create_container")
        predict(answers, "create_container", *untouched, observer=predicted)
        seen = last.expect("create_container")
        assert seen == asked(predicted, "create_container")
        assert seen != untouched

    @feature("Several plugins: merged as nri_sync.runtime predicts")
    def test_a_validator_sees_all_adjustments_and_their_owners(
        self,
        pod: Pod,
        connect: Connect,
        connect_all: Callable[..., None],
        answers: Answers,
        container: Container,
    ) -> None:
        memory = api.Update(container.id).set_memory(limit=40 * MIB)
        shares = api.Update(container.id).set_cpu(shares=222)
        answers = {
            **answers,
            "10-first": (answers["10-first"], [memory]),
            "90-last": (answers["90-last"], [shares]),
        }
        validator, predicted = Validator(), Validator()
        connect(validator, idx="99", name="observer")
        connect_all(answers)
        pod.create()
        (request,) = asked(validator, "validate_container_adjustment")
        told = request.pod, request.container
        reply = predict(answers, "create_container", *told, observer=predicted)
        # The request has the container, all adjustments and updates, and the plugin of each.
        assert [request] == list(asked(predicted, "validate_container_adjustment"))
        # The real runtime has done the same.
        assert [update.container_id for update in reply.update] == [container.id]
        inside = Inside(container)
        assert inside.memory_limit == 40 * MIB
        assert inside.cpu_shares in (222, None)

    @feature("Several plugins: the OCI specification is as nri_sync.runtime predicts")
    def test_the_specification(
        self,
        pod: Pod,
        connect: Connect,
        connect_all: Callable[..., None],
        answers: Answers,
    ) -> None:
        observer = Recorder()
        before = pod.create()
        connect(observer, idx="00", name="observer")
        connect_all(answers)
        after = pod.create()
        reply = predict(answers, "create_container", *observer.expect("create_container"))
        predicted = oci.adjust_spec(specification(before), reply.adjust)
        real = specification(after)
        # The Go implementation leaves to chance whether an annotation of another plugin is replaced, or only
        # removed.
        assert real["annotations"].pop("gostub/0", "taken") == "taken"
        assert predicted["annotations"].pop("gostub/0") == "taken"
        assert real == predicted


def specification(container: Container) -> Any:
    """The OCI specification, without the parts in which any two containers of a pod differ."""
    text = json.dumps(container.info["runtimeSpec"])
    found = json.loads(text.replace(container.id, "ID").replace(container.name, "NAME"))
    del found["root"]
    annotations = found["annotations"].items()
    found["annotations"] = {
        key: value for key, value in annotations if key.startswith(("py/", "gostub/"))
    }
    return found


@feature("Several plugins: updates are merged as nri_sync.runtime predicts")
def test_updates(connect: Connect, connect_all: Callable[..., None], container: Container) -> None:
    answers = {
        "10-first": [api.Update(container.id).set_memory(limit=48 * MIB)],
        "90-last": [api.Update(container.id).set_cpu(shares=333, cpus="0")],
    }
    observer = Recorder()
    connect(observer, idx="00", name="observer")
    connect_all(answers, "update_container")
    container.update(memory_limit_in_bytes=96 * MIB, cpu_quota=40_000, cpu_period=80_000)
    reply = predict(answers, "update_container", *observer.expect("update_container"))
    (update,) = reply.update
    wanted = update.linux.resources
    inside = Inside(container)
    assert inside.memory_limit == wanted.memory.limit.value == 48 * MIB
    assert inside.cpu_quota == (wanted.cpu.quota.value, wanted.cpu.period.value) == (40_000, 80_000)
    assert inside.cpus == wanted.cpu.cpus == "0"
    assert inside.cpu_shares in (wanted.cpu.shares.value, None)
    assert wanted.cpu.shares.value == 333


CONFLICTS: dict[str, Sequence[Callable[[api.Adjustment], object]]] = {
    "env": [lambda a: a.add_env("X", "1"), lambda a: a.add_env("X", "2")],
    "annotation": [lambda a: a.add_annotation("x", "1"), lambda a: a.add_annotation("x", "2")],
    "mount": [lambda a: a.add_mount("/x", source="/tmp", type="bind")] * 2,
    "device": [lambda a: a.add_device("/dev/x", "c", 1, 3)] * 2,
    "rlimit": [lambda a: a.add_rlimit("RLIMIT_CORE", soft=1, hard=2)] * 2,
    "OOM score": [lambda a: a.set_oom_score_adj(1), lambda a: a.set_oom_score_adj(2)],
    "cgroups path": [lambda a: a.set_cgroups_path("/x")] * 2,
    "memory": [lambda a: a.set_memory(limit=64 * MIB), lambda a: a.set_memory(limit=65 * MIB)],
    "CPU shares": [lambda a: a.set_cpu(shares=5)] * 2,
    "CPU set": [lambda a: a.set_cpu(cpus="0")] * 2,
    "pids": [lambda a: a.set_pids_limit(5)] * 2,
    "unified": [lambda a: a.set_unified("memory.high", "1")] * 2,
    "huge pages": [lambda a: a.add_hugepage_limit("2MB", 1)] * 2,
    "blockio class": [lambda a: a.set_blockio_class("x")] * 2,
    "RDT class": [lambda a: a.set_rdt_class("x")] * 2,
}
LATER_CONFLICTS: dict[str, Sequence[Callable[[api.Adjustment], object]]] = {
    "args": [lambda a: a.set_args(["/probe"])] * 2,
    "namespace": [lambda a: a.set_namespace("ipc")] * 2,
    "sysctl": [lambda a: a.set_sysctl("kernel.shm_rmid_forced", "1")] * 2,
    "scheduler": [lambda a: a.set_scheduler("SCHED_BATCH")] * 2,
    "I/O priority": [lambda a: a.set_io_priority("IOPRIO_CLASS_BE", 6)] * 2,
    "network device": [lambda a: a.add_net_device("eth9", "x")] * 2,
    "memory policy": [lambda a: a.set_memory_policy("MPOL_BIND", "0")] * 2,
    "seccomp": [lambda a: a.set_seccomp_policy(api.LinuxSeccomp(default_action="SCMP_ACT_ALLOW"))]
    * 2,
    "RDT": [lambda a: a.set_rdt(clos_id="x")] * 2,
}


def check_conflict(
    node: Node, pod: Pod, connect: Connect, both: Sequence[Callable[[api.Adjustment], object]]
) -> None:
    answers = {}
    for full_name, adjust in zip(("10-first", "90-last"), both):
        answers[full_name] = api.Adjustment()
        adjust(answers[full_name])
    observer = Recorder()
    connect(observer, idx="00", name="observer")
    for full_name, answer in answers.items():
        idx, _, name = full_name.partition("-")
        connect(Recorder(create_container=answer), idx=idx, name=name)
    with pytest.raises(grpc.RpcError) as real:
        pod.create()
    with pytest.raises(ConflictError) as predicted:
        predict(answers, "create_container", *observer.expect("create_container"))
    text = str(predicted.value)
    if node.name == "cri-o":
        # In older releases, fields have other names.
        text = text.partition(" both tried to set ")[0]
    assert text in str(real.value.details())


@feature("Several plugins: conflicts are as nri_sync.runtime predicts")
@pytest.mark.parametrize("what", CONFLICTS)
def test_conflicts(node: Node, pod: Pod, connect: Connect, what: str) -> None:
    check_conflict(node, pod, connect, CONFLICTS[what])


@feature("Several plugins: conflicts about arguments, namespaces and what came with them")
@pytest.mark.parametrize("what", LATER_CONFLICTS)
def test_later_conflicts(node: Node, pod: Pod, connect: Connect, what: str) -> None:
    check_conflict(node, pod, connect, LATER_CONFLICTS[what])
