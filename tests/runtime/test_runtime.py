"""The runtime as a whole: its lifecycle, and each test of the reference's suite in some form."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import Adjustment, EventMask, Update, nri_pb2
from nri_sync.api.handlers import HANDLERS
from nri_sync.deadline import Deadline
from nri_sync.errors import (
    AlreadyStarted,
    ConflictError,
    ConnectionLost,
    NoAnswer,
    NotConnected,
    RequestFailed,
    RequestTimeout,
    RuntimeStopped,
    ValidationRejected,
    WouldDeadlock,
)
from nri_sync.runtime import DefaultValidator, DefaultValidatorConfig, Runtime
from tests.runtime.rig import (
    CONTAINER,
    LONG,
    OTHER,
    POD,
    RESOURCES,
    SHORT,
    Host,
    Never,
    PluginWith,
    RawPlugin,
    on_thread,
    set_request_timeout,
    update_of,
)

__all__: list[str] = []

Start = Callable[..., Runtime]
Connect = Callable[..., nri_sync.Stub]

EVENTS = {handler.rpc: handler for handler in HANDLERS if handler.event}
RELAYED = [rpc for rpc in EVENTS if rpc != "ValidateContainerAdjustment"]
UPDATE_POD = (POD, nri_pb2.LinuxResources(cpu=nri_pb2.LinuxCPU(cpus="7")), RESOURCES)


def tell(runtime: Runtime, rpc: str, **options: Any) -> Any:
    """Send an event by the name of its RPC."""
    name = EVENTS[rpc].name
    if rpc == "UpdatePodSandbox":
        return getattr(runtime, name)(*UPDATE_POD, **options)
    if rpc == "UpdateContainer":
        return getattr(runtime, name)(POD, CONTAINER, RESOURCES, **options)
    arguments = (POD, CONTAINER) if "Container" in rpc else (POD,)
    return getattr(runtime, name)(*arguments, **options)


class Noting:
    """A plugin that records its calls. With ``events``, it has only these handlers."""

    def __init__(self, events: EventMask | None = None) -> None:
        self.events = events
        self.calls: queue.SimpleQueue[tuple[str, tuple[Any, ...]]] = queue.SimpleQueue()

    def configure(self, config: str, runtime: str, version: str) -> Any:
        self.calls.put(("configure", (config, runtime, version)))
        return self.events

    def expect(self, name: str) -> tuple[Any, ...]:
        called, arguments = self.calls.get(timeout=LONG)
        assert called == name
        return arguments


def _noting(name: str, parameters: tuple[str, ...]) -> Any:
    def handler(self: Noting, *arguments: Any) -> None:
        self.calls.put((name, arguments))

    return handler


for _handler in HANDLERS:
    if _handler.name not in ("configure", "shutdown", "validate_container_adjustment"):
        setattr(Noting, _handler.name, _noting(_handler.name, _handler.parameters))


def _is_up(runtime: Runtime) -> bool:
    return runtime.started


class TestLife:
    def test_start_and_stop_again_and_again(
        self, make_runtime: Start, connect: Connect, socket_dir: Path
    ) -> None:
        runtime = make_runtime()
        for _ in range(3):
            assert not _is_up(runtime)
            runtime.stop()
            with runtime:
                assert _is_up(runtime)
                with pytest.raises(AlreadyStarted):
                    runtime.start()
                plugin = Noting()
                stub = connect(runtime, plugin)
                runtime.run_pod_sandbox(POD)
            assert stub.wait(LONG)
            assert isinstance(stub.close_reason, ConnectionLost)
            assert runtime.plugins == ()
            assert not (socket_dir / "nri.sock").exists()

    def test_a_stopped_runtime_refuses_all_calls(self, make_runtime: Start) -> None:
        runtime = make_runtime()
        for rpc in RELAYED:
            with pytest.raises(RuntimeStopped, match=rpc):
                tell(runtime, rpc)
        with pytest.raises(RuntimeStopped):
            runtime.block_plugin_sync()
        assert not runtime.wait_for_plugins(lambda names: True, LONG)

    @pytest.mark.parametrize("grace", [None, SHORT])
    def test_stopping_ends_a_request(
        self, grace: float | None, start_runtime: Start, join: Any
    ) -> None:
        runtime = start_runtime()
        never = Never()
        join(runtime, RunPodSandbox=lambda request, context: never() or b"")
        result = on_thread(lambda: runtime.run_pod_sandbox(POD))
        assert never.called.wait(LONG)
        runtime.stop(grace)
        with pytest.raises(RuntimeStopped, match="RunPodSandbox"):
            result()
        never.release.set()

    def test_a_request_may_get_through_within_the_grace(
        self, start_runtime: Start, join: Any
    ) -> None:
        runtime = start_runtime()
        never = Never()
        join(runtime, RunPodSandbox=lambda request, context: never() or b"")
        result = on_thread(lambda: runtime.run_pod_sandbox(POD))
        assert never.called.wait(LONG)
        stopped = on_thread(lambda: runtime.stop(LONG))
        never.release.set()
        result()
        stopped()

    def test_stop_from_a_handler_and_from_a_callback(
        self, make_runtime: Start, connect: Connect, host: Host, socket_dir: Path
    ) -> None:
        runtime: Runtime = make_runtime(
            plugins={"10-a": PluginWith(run_pod_sandbox=lambda pod: runtime.stop())}
        )
        with runtime:
            runtime.run_pod_sandbox(POD)
            assert not runtime.started

        def update(updates: Any, evictions: Any) -> Any:
            stopping.stop()
            return ()

        stopping: Runtime = make_runtime(update_containers=update)
        with stopping:
            stub = connect(stopping, Noting())
            with pytest.raises(Exception, match=r"closed|lost|UNAVAILABLE"):
                stub.update_containers([update_of("x")], timeout=LONG)
        assert not stopping.started

    def test_another_start_does_not_wait_for_a_callback_of_the_one_before(
        self, make_runtime: Start, connect: Connect, host: Host, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        callback = Never()
        monkeypatch.setattr(host, "synchronize", lambda sync: callback())
        runtime = make_runtime(synchronize=lambda sync: host.synchronize(sync))
        start = on_thread(runtime.start)
        assert callback.called.wait(LONG)
        with pytest.raises(AlreadyStarted):
            runtime.start()
        runtime.stop()
        monkeypatch.undo()
        runtime.start()
        callback.release.set()
        with pytest.raises(RuntimeStopped):
            start()
        # The first start has not removed the socket of the second one.
        connect(runtime, Noting())
        assert runtime.started
        runtime.stop()

    def test_many_stops_at_once(self, start_runtime: Start, connect: Connect) -> None:
        runtime = start_runtime()
        connect(runtime, Noting())
        for result in [on_thread(runtime.stop) for _ in range(5)]:
            result()
        assert not runtime.started

    def test_many_threads(self, start_runtime: Start, connect: Connect) -> None:
        runtime = start_runtime()
        inside: list[int] = []
        most: list[int] = []

        def run(pod: Any) -> None:
            inside.append(1)
            most.append(len(inside))
            inside.pop()

        connect(runtime, PluginWith(run_pod_sandbox=run))
        barrier = threading.Barrier(8)

        def work() -> None:
            barrier.wait(LONG)
            for _ in range(20):
                runtime.run_pod_sandbox(POD)

        for result in [on_thread(work) for _ in range(8)]:
            result()
        assert most == [1] * 160  # one event at a time

    def test_plugins_that_come_and_go_all_the_time(
        self, start_runtime: Start, socket_dir: Path
    ) -> None:
        runtime = start_runtime()
        over = threading.Event()
        plugin = PluginWith(
            run_pod_sandbox=lambda pod: None,
            create_container=lambda pod, ctr: Adjustment().add_annotation("a", "b"),
        )

        def come_and_go(number: int) -> None:
            path = str(socket_dir / "nri.sock")
            stub = nri_sync.Stub(plugin, name=f"p{number}", idx=number, socket_path=path)
            for times in range(15):
                stub.start(LONG)
                if times % 2:
                    assert runtime.wait_for_plugins(lambda names: stub.name in names, LONG)
                stub.stop()

        def work() -> None:
            while not over.is_set():
                runtime.run_pod_sandbox(POD)
                try:
                    with runtime.block_plugin_sync():
                        runtime.create_container(POD, CONTAINER)
                except ConflictError:
                    pass  # two plugins were connected

        going = [on_thread(lambda n=n: come_and_go(n)) for n in range(4)]  # type: ignore[misc]
        working = [on_thread(work) for _ in range(2)]
        for result in going:
            result()
        over.set()
        for result in working:
            result()
        assert runtime.wait_for_plugins(lambda names: not names, LONG)

    def test_an_event_within_an_event(self, make_runtime: Start) -> None:
        def run(pod: Any) -> None:
            with pytest.raises(WouldDeadlock):
                runtime.stop_pod_sandbox(pod)

        runtime: Runtime = make_runtime(plugins={"10-a": PluginWith(run_pod_sandbox=run)})
        with runtime:
            runtime.run_pod_sandbox(POD)

    def test_messages_of_a_wrong_type(self, start_runtime: Start) -> None:
        runtime = start_runtime()
        with pytest.raises(TypeError):
            runtime.run_pod_sandbox(CONTAINER)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no container"):
            runtime.create_container(POD, None)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="no container"):
            runtime.update_container(POD, None)  # type: ignore[arg-type]


class TestEvents:
    """Subscribed plugins receive events in order, over the socket and in the process."""

    def test_without_plugins(self, start_runtime: Start) -> None:
        runtime = start_runtime()
        for _ in range(2):
            for rpc in RELAYED:
                tell(runtime, rpc)
        assert len(runtime.create_container(POD, CONTAINER).update) == 0

    def test_every_event_over_the_wire(self, start_runtime: Start, connect: Connect) -> None:
        runtime = start_runtime()
        plugin = Noting()
        connect(runtime, plugin)
        assert plugin.expect("configure") == ("", "test", "v1.2.3")
        assert plugin.expect("synchronize") == ([POD], [OTHER])
        for rpc in RELAYED:
            tell(runtime, rpc)
            arguments = plugin.expect(EVENTS[rpc].name)
            assert arguments[0] == POD
            if rpc == "UpdatePodSandbox":
                assert arguments == UPDATE_POD
            elif "Container" in rpc:
                # CreateContainer has empty hooks.
                arguments[1].ClearField("hooks")
                arguments[1].ClearField("linux")
                assert arguments[1] == CONTAINER
        assert plugin.calls.empty()

    @pytest.mark.parametrize(
        "events", [*EVENTS, "pod", "container", "createcontainer,updatecontainer,stopcontainer"]
    )
    def test_a_plugin_gets_only_subscribed_events(self, events: str, make_runtime: Start) -> None:
        mask = EventMask.parse(events) & ~EventMask.VALIDATE_CONTAINER_ADJUSTMENT
        if not mask:
            return
        plugin = Noting(mask)
        with make_runtime(plugins={"10-a": plugin}) as runtime:
            plugin.expect("configure")
            plugin.expect("synchronize")
            for rpc in RELAYED:
                tell(runtime, rpc)
        expected = [EVENTS[rpc].name for rpc in RELAYED if EVENTS[rpc].event in mask.numbers]
        got = []
        while not plugin.calls.empty():
            got.append(plugin.calls.get()[0])
        assert got == expected

    def test_in_order(self, make_runtime: Start, connect: Connect) -> None:
        order: list[str] = []

        def note(name: str) -> Any:
            return PluginWith(start_container=lambda pod, container: order.append(name))

        with make_runtime(plugins={"20-in": note("20-in")}) as runtime:
            for name in ("99-c", "00-a"):
                connect(runtime, note(name), name)
            runtime.start_container(POD, CONTAINER)
        assert order == ["00-a", "20-in", "99-c"]


def _subjects() -> Iterator[tuple[str, Callable[[Adjustment], Any], bool]]:
    """The settings of an adjustment, and whether two plugins with the same setting conflict."""
    yield "annotation", lambda a: a.add_annotation("key", "value"), True
    yield "mount", lambda a: a.add_mount("/mnt", source="/src", type="bind"), True
    yield "env", lambda a: a.add_env("key", "value"), True
    yield "args", lambda a: a.set_args(["sh", "-c", "true"]), True
    yield "hooks", lambda a: a.add_hook("prestart", "/bin/hook"), False
    yield "device", lambda a: a.add_device("/dev/d", type="c", major=1, minor=2), True
    yield "namespace", lambda a: a.set_namespace("cgroup", "/proc/self/ns/cgroup"), True
    yield "rlimit", lambda a: a.add_rlimit("RLIMIT_NOFILE", hard=456, soft=123), True
    yield "CDI device", lambda a: a.add_cdi_device("vendor.com/class=name"), True
    yield "I/O priority", lambda a: a.set_io_priority("IOPRIO_CLASS_RT", 5), True
    yield "net device", lambda a: a.add_net_device("hostIf", "containerIf"), True
    yield "scheduler", lambda a: a.set_scheduler("SCHED_FIFO", priority=10), True
    yield "sysctl", lambda a: a.set_sysctl("net.core.somaxconn", "256"), True
    yield "memory policy", lambda a: a.set_memory_policy("MPOL_INTERLEAVE", "0,1"), True
    yield "cpu", lambda a: a.set_cpu(shares=1, quota=2000, period=3000, cpus="0", mems="1"), True
    yield "memory", lambda a: a.set_memory(limit=1, reservation=2, swap=3), True
    yield "block I/O class", lambda a: a.set_blockio_class("low"), True
    yield "RDT class", lambda a: a.set_rdt_class("gold"), True
    yield "hugepages", lambda a: a.add_hugepage_limit("1MB", 4096), True
    yield "unified", lambda a: a.set_unified("memory.high", "1"), True
    yield "cgroups path", lambda a: a.set_cgroups_path("/some/where"), True
    seccomp = nri_pb2.LinuxSeccomp(default_action="SCMP_ACT_ALLOW")
    yield "seccomp", lambda a: a.set_seccomp_policy(seccomp), True
    yield "RDT", lambda a: a.set_rdt(clos_id="gold", enable_monitoring=True), True


SUBJECTS = {name: (adjust, conflicts) for name, adjust, conflicts in _subjects()}


def _adjusting(*steps: Callable[[Adjustment], Any]) -> Any:
    def create(pod: Any, container: Any) -> Any:
        adjustment = Adjustment()
        for step in steps:
            step(adjustment)
        return adjustment

    return PluginWith(create_container=create)


class TestAdjustments:
    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_of_one_plugin(self, subject: str, start_runtime: Start, connect: Connect) -> None:
        adjust, _ = SUBJECTS[subject]
        runtime = start_runtime()
        connect(runtime, _adjusting(adjust))
        expected = Adjustment()
        adjust(expected)
        reply = runtime.create_container(POD, CONTAINER)
        assert api.strip(reply.adjust) == api.strip(expected.message)

    @pytest.mark.parametrize("subject", SUBJECTS)
    def test_of_two(self, subject: str, make_runtime: Start) -> None:
        adjust, conflicts = SUBJECTS[subject]
        plugins = {"10-foo": _adjusting(adjust), "00-bar": _adjusting(adjust)}
        with make_runtime(plugins=plugins) as runtime:
            if conflicts:
                with pytest.raises(ConflictError, match='plugins "10-foo" and "00-bar"'):
                    runtime.create_container(POD, CONTAINER)
            else:
                reply = runtime.create_container(POD, CONTAINER)
                assert len(reply.adjust.hooks.prestart) == 2

    @pytest.mark.parametrize(
        ("first", "remove", "expected"),
        [
            (lambda a: a.add_env("key", "bar"), lambda a: a.remove_env("key"),
             lambda a: a.add_env("key", "foo")),
            (lambda a: a.add_annotation("key", "bar"), lambda a: a.remove_annotation("key"),
             lambda a: a.add_annotation("key", "foo")),
        ],
    )  # fmt: skip
    def test_of_two_plugins_with_a_removal_first(
        self, first: Any, remove: Any, expected: Any, make_runtime: Start
    ) -> None:
        plugins = {"00-bar": _adjusting(first), "10-foo": _adjusting(remove, expected)}
        with make_runtime(plugins=plugins) as runtime:
            adjust = runtime.create_container(POD, CONTAINER).adjust
        values = dict(adjust.annotations) or {env.key: env.value for env in adjust.env}
        assert values["key"] == "foo"


def _updating(*updates: nri_pb2.ContainerUpdate) -> Any:
    def answer(*_arguments: Any) -> Any:
        return list(updates)

    return PluginWith(
        create_container=lambda pod, container: (None, list(updates)),
        update_container=lambda pod, container, resources: answer(),
        stop_container=lambda pod, container: answer(),
    )


class TestUpdates:
    UPDATES = (
        Update("ctr0").set_cpu(shares=1, cpus="0"), Update("ctr0").set_memory(limit=5),
        Update("ctr0").set_blockio_class("a"), Update("ctr0").add_hugepage_limit("1MB", 1),
        Update("ctr0").set_unified("memory.high", "1"),
    )  # fmt: skip

    @pytest.mark.parametrize("update", UPDATES)
    def test_of_another_container_during_creation(
        self, update: Update, make_runtime: Start
    ) -> None:
        with make_runtime(plugins={"10-foo": _updating(update.message)}) as runtime:
            [merged] = runtime.create_container(POD, CONTAINER).update
        assert api.strip(merged) == update.message

    @pytest.mark.parametrize("update", UPDATES)
    def test_of_two_plugins(self, update: Update, make_runtime: Start) -> None:
        both = {"10-foo": _updating(update.message), "00-bar": _updating(update.message)}
        with make_runtime(plugins=both) as runtime:
            with pytest.raises(ConflictError, match='plugins "10-foo" and "00-bar"'):
                runtime.create_container(POD, CONTAINER)
            with pytest.raises(ConflictError):
                runtime.update_container(POD, OTHER, RESOURCES)
            with pytest.raises(ConflictError):
                runtime.stop_container(POD, CONTAINER)

    @pytest.mark.parametrize("update", UPDATES[1:])
    def test_of_the_requested_container(self, update: Update, make_runtime: Start) -> None:
        with make_runtime(plugins={"10-foo": _updating(update.message)}) as runtime:
            [merged] = runtime.update_container(POD, OTHER, RESOURCES).update
        # The resources of the request, changed by the resources of the plugin.
        expected = nri_pb2.ContainerUpdate()
        expected.CopyFrom(update.message)
        expected.linux.resources.cpu.cpus = "0-3"
        assert api.strip(merged) == expected

    def test_of_the_container_that_is_being_created(self, make_runtime: Start) -> None:
        runtime = make_runtime(plugins={"10-foo": _updating(update_of("ctr1"))})
        with runtime, pytest.raises(ConflictError, match=r"asked update of .* during creation"):
            runtime.create_container(POD, CONTAINER)

    def test_unsolicited(self, start_runtime: Start, connect: Connect, host: Host) -> None:
        runtime = start_runtime()
        stub = connect(runtime, Noting())
        eviction = api.eviction("ctr1", "why")
        assert stub.update_containers([update_of("ctr0")], [eviction], timeout=LONG) == []
        assert host.unsolicited.get(timeout=LONG) == ([update_of("ctr0")], [eviction])
        host.failing = [update_of("ctr0")]
        assert stub.update_containers([update_of("ctr0")], timeout=LONG) == [update_of("ctr0")]
        stub.stop()
        with pytest.raises(NotConnected):
            stub.update_containers([update_of("ctr0")])

    def test_unsolicited_while_an_event_is_relayed(
        self, start_runtime: Start, join: Any, host: Host
    ) -> None:
        runtime = start_runtime()
        holder: list[RawPlugin] = []
        plugin = join(
            runtime,
            RunPodSandbox=lambda request, context: holder[0].update_containers(update_of("x")),
        )
        holder.append(plugin)
        runtime.run_pod_sandbox(POD)
        assert host.unsolicited.get(timeout=LONG) == ([update_of("x")], [])


def _validator(check: Callable[[api.ValidateContainerAdjustmentRequest], None]) -> Any:
    return PluginWith(validate_container_adjustment=check)


def _default(**settings: Any) -> DefaultValidator:
    return DefaultValidator(DefaultValidatorConfig(enable=True, **settings))


def _named(name: str, number: int = 1) -> nri_pb2.Container:
    container = nri_pb2.Container()
    container.CopyFrom(CONTAINER)
    container.id = container.name = name
    return container


class TestValidation:
    def test_by_a_plugin(self, start_runtime: Start, connect: Connect) -> None:
        def check(request: api.ValidateContainerAdjustmentRequest) -> None:
            owner = api.Owners(request.owners).owner("ctr1", api.Field.Annotations, "no-no")
            if owner is not None:
                raise ValueError(f"{owner} set no-no")

        runtime = start_runtime()
        key: list[str] = ["fine"]
        plugin = PluginWith(
            create_container=lambda pod, ctr: Adjustment().add_annotation(key[0], "value")
        )
        connect(runtime, plugin, "00-foo")
        connect(runtime, _validator(check), "00-validator")
        assert runtime.create_container(POD, CONTAINER).adjust.annotations == {"fine": "value"}
        key[0] = "no-no"
        with pytest.raises(ValidationRejected, match="00-foo set no-no"):
            runtime.create_container(POD, CONTAINER)

    @pytest.mark.parametrize(
        ("setting", "profile", "adjust"),
        [
            ("reject_oci_hook_adjustment", None, SUBJECTS["hooks"][0]),
            ("reject_namespace_adjustment", None, SUBJECTS["namespace"][0]),
            ("reject_sysctl_adjustment", None, SUBJECTS["sysctl"][0]),
            (
                "reject_runtime_default_seccomp_adjustment",
                "RUNTIME_DEFAULT",
                SUBJECTS["seccomp"][0],
            ),
            ("reject_custom_seccomp_adjustment", "LOCALHOST", SUBJECTS["seccomp"][0]),
            ("reject_unconfined_seccomp_adjustment", "UNCONFINED", SUBJECTS["seccomp"][0]),
        ],
    )
    @pytest.mark.parametrize("reject", [True, False])
    def test_by_the_default_validator(
        self, setting: str, profile: str | None, adjust: Any, reject: bool, make_runtime: Start
    ) -> None:
        def create(pod: Any, container: Any) -> Any:
            return adjust(Adjustment()) if container.name == "ctr1" else None

        others = {f"9{n}-dummy": _validator(lambda request: None) for n in range(2)}
        runtime = make_runtime(
            plugins={"10-foo": PluginWith(create_container=create), **others},
            default_validator=_default(**{setting: reject}),
        )
        container = _named("ctr1")
        if profile is not None:
            kind = getattr(nri_pb2.SecurityProfile, profile)
            container.linux.seccomp_profile.profile_type = kind
        with runtime:
            assert runtime.plugins[0] == "00-default-validator"
            runtime.create_container(POD, _named("ctr0"))
            if reject:
                with pytest.raises(ValidationRejected, match=r"00-default-validator.*restricted"):
                    runtime.create_container(POD, container)
            else:
                runtime.create_container(POD, container)

    def test_required_plugins(self, make_runtime: Start, connect: Connect) -> None:
        tolerate = "tolerate-missing-plugins.noderesource.dev"
        runtime = make_runtime(
            plugins={"10-foo": _adjusting()},
            default_validator=_default(
                required_plugins=["foo", "bar"], tolerate_missing_plugins_annotation=tolerate
            ),
        )
        pod = nri_pb2.PodSandbox(id="pod1", annotations={f"{tolerate}/container.ctr0": "true"})
        with runtime:
            with pytest.raises(ValidationRejected, match='required plugin "bar" not present'):
                runtime.create_container(POD, CONTAINER)
            runtime.create_container(pod, _named("ctr0"))
            connect(runtime, _adjusting(), "20-bar")
            runtime.create_container(POD, CONTAINER)

            annotated = nri_pb2.PodSandbox(
                annotations={api.REQUIRED_PLUGINS: '[ "xyzzy" ]'}, id="pod2"
            )
            with pytest.raises(ValidationRejected, match='required plugin "xyzzy"'):
                runtime.create_container(annotated, CONTAINER)
            connect(runtime, _adjusting(), "30-xyzzy")
            runtime.create_container(annotated, CONTAINER)

    def test_a_required_plugin_that_does_not_answer_is_missing(
        self, make_runtime: Start, join: Any
    ) -> None:
        # The reference creates the container nevertheless.
        never = Never()
        with make_runtime(default_validator=_default(required_plugins=["slow"])) as runtime:
            join(runtime, "10-slow", CreateContainer=lambda request, context: never() or b"")
            set_request_timeout(runtime, SHORT)
            with pytest.raises(ValidationRejected, match='required plugin "slow"'):
                runtime.create_container(POD, CONTAINER)
            assert runtime.wait_for_plugins(lambda names: "10-slow" not in names, LONG)
            never.release.set()

    def test_a_required_plugin_that_has_left_is_missing(
        self, make_runtime: Start, join: Any
    ) -> None:
        with make_runtime(default_validator=_default(required_plugins=["gone"])) as runtime:
            plugin = join(runtime, "10-gone")
            runtime.create_container(POD, CONTAINER)
            plugin.close()
            assert runtime.wait_for_plugins(lambda names: "10-gone" not in names, LONG)
            with pytest.raises(ValidationRejected, match='required plugin "gone"'):
                runtime.create_container(POD, CONTAINER)


FAIL = nri_pb2.FailurePolicy(fail_request=True)
KEEP = nri_pb2.FailurePolicy(keep_connected=True)
FAIL_AND_KEEP = nri_pb2.FailurePolicy(fail_request=True, keep_connected=True)


class TestFailures:
    """Policies over the socket; test_relay.py has all combinations."""

    @pytest.fixture
    def asked(self) -> list[str]:
        return []

    @pytest.fixture
    def runtime(self, make_runtime: Start, asked: list[str]) -> Iterator[Runtime]:
        """A runtime with an in-process plugin 20-later that has every handler."""

        def note(name: str) -> Any:
            return lambda *arguments: asked.append(name)

        later = PluginWith(**{EVENTS[rpc].name: note(rpc) for rpc in RELAYED})
        with make_runtime(plugins={"20-later": later}) as runtime:
            yield runtime

    @pytest.fixture
    def never(self) -> Iterator[Never]:
        never = Never()
        yield never
        never.release.set()

    def test_no_policy(self, runtime: Runtime, never: Never, join: Any, asked: list[str]) -> None:
        plugin = join(runtime, RunPodSandbox=lambda request, context: never() or b"")
        set_request_timeout(runtime, SHORT)
        runtime.run_pod_sandbox(POD)
        assert asked == ["RunPodSandbox"]
        assert runtime.wait_for_plugins(lambda names: names == ("20-later",), LONG)
        # Once more, for the next instance of the plugin.
        join(runtime, RunPodSandbox=lambda request, context: never() or b"")
        runtime.run_pod_sandbox(POD)
        assert runtime.wait_for_plugins(lambda names: names == ("20-later",), LONG)
        assert plugin.lost.is_set() or plugin.lost.wait()

    def test_fail_and_keep(
        self, runtime: Runtime, never: Never, join: Any, asked: list[str]
    ) -> None:
        plugin = join(
            runtime, policy=FAIL_AND_KEEP, RunPodSandbox=lambda request, context: never() or b""
        )
        set_request_timeout(runtime, SHORT)
        for _ in range(3):
            with pytest.raises(NoAnswer, match="10-raw failed to handle RunPodSandbox") as failed:
                runtime.run_pod_sandbox(POD)
            assert isinstance(failed.value.__cause__, TimeoutError)
        assert asked == []
        set_request_timeout(runtime, LONG)
        never.release.set()
        runtime.run_pod_sandbox(POD)
        assert asked == ["RunPodSandbox"]
        assert not plugin.lost.is_set()

    def test_a_validator_that_is_kept(self, runtime: Runtime, never: Never, join: Any) -> None:
        join(
            runtime,
            events=int(EventMask.VALIDATE_CONTAINER_ADJUSTMENT),
            policy=KEEP,
            ValidateContainerAdjustment=lambda request, context: never() or b"",
        )
        set_request_timeout(runtime, SHORT)
        with pytest.raises(NoAnswer, match="10-raw"):
            runtime.create_container(POD, CONTAINER)
        set_request_timeout(runtime, LONG)
        never.release.set()
        runtime.create_container(POD, CONTAINER)
        assert "10-raw" in runtime.plugins

    def test_a_connection_that_is_lost_in_a_handler(
        self, runtime: Runtime, join: Any, asked: list[str]
    ) -> None:
        holder: list[RawPlugin] = []
        plugin = join(
            runtime,
            policy=FAIL_AND_KEEP,
            RunPodSandbox=lambda request, context: holder[0].session.link.close(),
        )
        holder.append(plugin)
        with pytest.raises(NoAnswer, match="10-raw") as failed:
            runtime.run_pod_sandbox(POD)
        assert isinstance(failed.value.__cause__, ConnectionLost)
        assert asked == []
        assert runtime.wait_for_plugins(lambda names: names == ("20-later",), LONG)

    @pytest.mark.parametrize("rpc", RELAYED)
    def test_a_plugin_that_has_left_fails_no_event(
        self, rpc: str, runtime: Runtime, join: Any, asked: list[str]
    ) -> None:
        join(runtime, events=0, policy=FAIL_AND_KEEP).close()
        assert runtime.wait_for_plugins(lambda names: names == ("20-later",), LONG)
        tell(runtime, rpc)
        assert asked == [rpc]

    def test_a_plugin_that_leaves_during_the_call_of_an_earlier_one(
        self, runtime: Runtime, join: Any, asked: list[str]
    ) -> None:
        leaving = join(runtime, "15-leaving", policy=FAIL)

        def run(request: bytes, context: Any) -> bytes:
            leaving.close()
            assert runtime.wait_for_plugins(lambda names: "15-leaving" not in names, LONG)
            return b""

        join(runtime, "10-first", RunPodSandbox=run)
        runtime.run_pod_sandbox(POD)
        assert asked == ["RunPodSandbox"]

    def test_the_time_of_the_caller(self, runtime: Runtime, never: Never, join: Any) -> None:
        join(runtime, policy=FAIL, RunPodSandbox=lambda request, context: never() or b"")
        with pytest.raises(RequestTimeout) as failed:
            runtime.run_pod_sandbox(POD, timeout=SHORT)
        assert "10-raw" not in str(failed.value)
        assert "10-raw" in runtime.plugins

    def test_the_time_of_the_caller_is_over_when_the_second_is_asked(
        self, runtime: Runtime, never: Never, join: Any
    ) -> None:
        first = join(runtime, "00-first", RunPodSandbox=lambda request, context: never() or b"")
        join(runtime, "10-second", RunPodSandbox=lambda request, context: never() or b"")
        set_request_timeout(runtime, SHORT)
        serving = runtime._serving
        assert serving is not None
        handle_failure = serving.relay._handle_failure

        def handle_then_wait_longer(
            plugin: Any, rpc: str, error: Exception, caller: Deadline
        ) -> None:
            handle_failure(plugin, rpc, error, caller)
            set_request_timeout(runtime, LONG)
            # Only now, so that the first plugin has failed within the time of the caller, on a busy machine too.
            caller.at = Deadline(SHORT).at

        serving.relay._handle_failure = handle_then_wait_longer  # type: ignore[method-assign]
        with pytest.raises(RequestTimeout):
            runtime.run_pod_sandbox(POD, timeout=LONG)
        assert runtime.wait_for_plugins(lambda names: "00-first" not in names, LONG)
        assert "10-second" in runtime.plugins
        assert first.lost.wait()

    def test_an_error_of_a_plugin(
        self, runtime: Runtime, connect: Connect, asked: list[str]
    ) -> None:
        def run(pod: Any) -> None:
            raise ValueError("boom")

        connect(runtime, PluginWith(run_pod_sandbox=run))
        with pytest.raises(RequestFailed, match="ValueError: boom") as failed:
            runtime.run_pod_sandbox(POD)
        assert (failed.value.plugin, failed.value.event) == ("10-test", "RunPodSandbox")
        assert asked == []
        assert "10-test" in runtime.plugins
