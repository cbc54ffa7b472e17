"""The context of log records."""

from __future__ import annotations

import concurrent.futures
import logging
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest

from nri_sync import api, kit
from nri_sync.kit import LogContext, in_context, log_context, log_scope
from nri_sync.kit.logs.context import RequestScope, context_of
from tests.kit._node import CONTAINER, LONG, POD, Node, PluginWith

__all__: list[str] = []


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        made.start()
        yield made


def during_a_request(node: Node, call: Callable[[], Any]) -> Any:
    """Return the result of ``call()`` in a handler of CreateContainer."""
    outcome: queue.SimpleQueue[Any] = queue.SimpleQueue()
    plugin = PluginWith(create_container=lambda pod, container: outcome.put(call()))
    requests = kit.RequestLogging()
    stub = node.stub(plugin, interceptors=[requests])
    node.connect(stub)
    node.runtime.create_container(POD, CONTAINER)
    return outcome.get(timeout=LONG)


def in_thread(call: Callable[[], Any]) -> Any:
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(call).result(LONG)


class TestLogContext:
    def test_as_text(self) -> None:
        assert str(LogContext()) == ""
        assert str(LogContext(event="Configure")) == "Configure"
        full = LogContext("10-test", "CreateContainer", "default", "web", "nginx", "a-1")
        assert str(full) == "10-test CreateContainer default/web:nginx a-1"
        assert full.subject == "default/web:nginx"


class TestRequests:
    def test_in_a_handler(self, node: Node) -> None:
        context = during_a_request(node, log_context)
        assert context[:5] == ("10-test", "CreateContainer", "default", "web", "nginx")
        assert context.operation

    def test_each_request_is_another_operation(self, node: Node) -> None:
        seen: queue.SimpleQueue[Any] = queue.SimpleQueue()
        plugin = PluginWith(run_pod_sandbox=lambda pod: seen.put(log_context()))
        node.connect(node.stub(plugin, interceptors=[kit.RequestLogging()]))
        for _ in range(3):
            node.runtime.run_pod_sandbox(POD)
        operations = {seen.get(timeout=LONG).operation for _ in range(3)}
        assert len(operations) == 3
        assert len({operation.split("-")[0] for operation in operations}) == 1

    def test_a_thread_has_the_context_that_it_is_given(self, node: Node) -> None:
        def look() -> tuple[Any, Any, Any]:
            return log_context(), in_thread(in_context(log_context)), in_thread(log_context)

        here, given, not_given = during_a_request(node, look)
        assert here is not None
        assert given == here
        assert not_given is None or not_given == here  # threads of Python 3.14 may inherit it

    def test_a_thread_keeps_the_context_after_the_request(self, node: Node) -> None:
        answered = threading.Event()
        futures: list[Any] = []
        with concurrent.futures.ThreadPoolExecutor(1) as executor:

            def later() -> LogContext | None:
                assert answered.wait(LONG)
                return log_context()

            def look() -> LogContext | None:
                futures.append(executor.submit(in_context(later)))
                return log_context()

            here = during_a_request(node, look)
            answered.set()
            assert futures[0].result(LONG) == here

    def test_no_context_after_a_request(self) -> None:
        scope = RequestScope("10-test", "CreateContainer", api.CreateContainerRequest(pod=POD))
        scope.enter()
        assert log_context() is not None
        scope.leave()
        assert log_context() is None
        scope = RequestScope("10-test", "CreateContainer", api.CreateContainerRequest(pod=POD))
        scope.enter()
        scope.leave_failed()  # without a stub, which would log more
        assert log_context() is None

    def test_the_record_of_a_failed_handler_has_the_context(
        self, node: Node, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.handler.addFilter(kit.ContextFilter())

        def fail(pod: Any, container: Any) -> None:
            raise ValueError("no")

        served = threading.Event()
        plugin = PluginWith(stop_container=fail, run_pod_sandbox=lambda pod: served.set())
        node.connect(node.stub(plugin, interceptors=[kit.RequestLogging(plugin="10-test")]))
        with pytest.raises(Exception, match="no"):
            node.runtime.stop_container(POD, CONTAINER)
        (logged,) = [item for item in caplog.records if item.levelno == logging.ERROR]
        assert logged.name == "nri_sync.ttrpc"
        assert context_of(logged).event == "StopContainer"  # type: ignore[union-attr]
        assert logged.__dict__["pod"] == "web"
        # The records of the next request, and those at the end, do not have it.
        node.runtime.run_pod_sandbox(POD)
        assert served.wait(LONG)
        node.runtime.stop()
        late = [item for item in caplog.records if item.msg.startswith("disconnected")]
        assert all(context_of(item) is None for item in late)

    def test_requests_at_the_same_time(self, node: Node) -> None:
        seen: list[str] = []
        together = threading.Barrier(2)

        def look(request: Any) -> None:
            together.wait(LONG)  # both requests are being served
            context = log_context()
            assert context is not None
            seen.append(context.plugin)

        plugin = PluginWith(validate_container_adjustment=look)
        for idx in ("01", "02"):
            node.connect(node.stub(plugin, idx=idx, interceptors=[kit.RequestLogging(plugin=idx)]))
        node.runtime.create_container(POD, CONTAINER)
        assert sorted(seen) == ["01", "02"]


class TestScopes:
    def test_outside_of_requests(self) -> None:
        assert log_context() is None
        with log_scope(POD, CONTAINER, event="reconcile") as context:
            assert log_context() == context
            assert context[:5] == ("", "reconcile", "default", "web", "nginx")
            with log_scope(operation="mine") as inner:
                assert inner == context._replace(operation="mine")
            with log_scope(api.PodSandbox(id="0123456789abcdef")) as inner:
                assert inner[2:5] == ("", "0123456789ab", "")
            assert log_context() == context
        assert log_context() is None
        with log_scope() as other:
            assert other.operation not in ("", context.operation)

    def test_within_a_request(self, node: Node) -> None:
        def look() -> tuple[Any, Any, Any]:
            before = log_context()
            with log_scope(api.PodSandbox(name="other", namespace="ns")):
                return before, log_context(), in_thread(in_context(log_context))

        before, inside, thread = during_a_request(node, look)
        assert inside == before._replace(namespace="ns", pod="other", container="")
        assert thread == inside

    def test_a_scope_does_not_inherit_from_a_finished_request(self, node: Node) -> None:
        def fail(pod: Any) -> None:
            raise ValueError("no")

        node.connect(
            node.stub(PluginWith(run_pod_sandbox=fail), interceptors=[kit.RequestLogging()])
        )
        with pytest.raises(Exception, match="no"):
            node.runtime.run_pod_sandbox(POD)
        with log_scope(event="mine") as context:
            assert context[:5] == ("", "mine", "", "", "")

    def test_a_scope_ends_when_the_block_raises(self) -> None:
        with pytest.raises(ValueError, match="no"), log_scope(POD):
            raise ValueError("no")
        assert log_context() is None

    def test_further_fields(self, node: Node) -> None:
        def look() -> Any:
            with log_scope(zone="a", step=1), log_scope(POD, step=2, event="mine"):
                return log_context(), in_thread(in_context(log_context))

        inside, thread = during_a_request(node, look)
        assert inside.fields == {"zone": "a", "step": 2}
        assert inside.event == "mine"
        assert thread == inside
        assert str(inside).endswith(f"mine default/web {inside.operation} zone=a step=2")
        assert inside.attributes()["zone"] == "a"

    @pytest.mark.parametrize("name", ["message", "args", "exc_info", "time", "level", "fields"])
    def test_names_that_records_use(self, name: str) -> None:
        fields: dict[str, Any] = {name: "a"}
        with (
            pytest.raises(TypeError, match=f"{name}: log records use these names"),
            log_scope(**fields),
        ):
            pass
        assert log_context() is None


class TestInContext:
    def test_the_wrapper_keeps_name_signature_and_result(self) -> None:
        def work(a: int, *, b: int) -> int:
            """Return the text."""
            return a + b

        wrapped = in_context(work)
        assert (wrapped(1, b=2), wrapped.__name__, wrapped.__doc__) == (
            3,
            "work",
            "Return the text.",
        )
        with pytest.raises(ZeroDivisionError):
            in_context(lambda: 1 / 0)()
        assert in_context(dict)() == {}  # also for a class

    def test_many_threads_at_once(self) -> None:
        together = threading.Barrier(4)

        def work(number: int) -> LogContext | None:
            together.wait(LONG)
            with log_scope(operation=str(number)):
                return log_context()

        with log_scope(POD), concurrent.futures.ThreadPoolExecutor(4) as executor:
            found = list(executor.map(in_context(work), range(4)))
            mine = log_context()
        assert mine is not None
        assert found == [mine._replace(operation=str(number)) for number in range(4)]


class TestFilter:
    def test_attributes(self) -> None:
        made = logging.makeLogRecord({"pod": "theirs"})
        with log_scope(POD, operation="a-1"):
            assert kit.ContextFilter().filter(made)
        assert made.__dict__["namespace"] == "default"
        assert made.__dict__["pod"] == "theirs"
        assert context_of(made) == LogContext("", "", "default", "web", "", "a-1")
        # A second filter, for example in another thread, changes nothing.
        assert kit.ContextFilter().filter(made)
        assert made.__dict__["operation"] == "a-1"

    def test_nothing(self) -> None:
        made = logging.makeLogRecord({})
        assert kit.ContextFilter().filter(made)
        assert [made.__dict__[name] for name in LogContext._fields[:-1]] == [""] * 6
        with log_scope(POD):
            assert context_of(made) is None
            assert context_of(logging.makeLogRecord({})) is not None
        assert context_of(logging.makeLogRecord({"nri_context": "odd"})) is None

    def test_a_format_of_ones_own(self) -> None:
        formatter = logging.Formatter("%(namespace)s/%(pod)s %(operation)s %(message)s")
        made = logging.makeLogRecord({"msg": "hello"})
        with log_scope(POD, operation="a-1"):
            kit.ContextFilter().filter(made)
        assert formatter.format(made) == "default/web a-1 hello"


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_has_ids_of_its_own() -> None:
    with log_scope() as before:
        prefix = before.operation.split("-")[0]
    child = os.fork()
    if child == 0:
        with log_scope() as context:
            os._exit(0 if context.operation.split("-")[0] != prefix else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
