"""The handlers of a plugin, and the responses for their return values."""

from __future__ import annotations

import functools
import itertools
import subprocess
import sys
import types
from collections.abc import Iterator
from typing import Annotated, Any, Optional

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask, nri_pb2
from nri_sync.api.handlers import BY_EVENT, HANDLERS, Handler, asked_events, find_handlers
from nri_sync.api.services import PLUGIN
from nri_sync.errors import PluginError
from nri_sync.kit import chain
from tests.plugin.harness import PluginWith

__all__: list[str] = []

BY_NAME = {handler.name: handler for handler in HANDLERS}
EVENTS = {handler.event: handler for handler in HANDLERS if handler.event}
SERVICE = nri_pb2.DESCRIPTOR.services_by_name["Plugin"]

UPDATE = nri_pb2.ContainerUpdate(container_id="ctr0")
OTHER = nri_pb2.ContainerUpdate(container_id="ctr1")


class TestTable:
    def test_every_event_has_a_handler(self) -> None:
        assert sorted(EVENTS) == EventMask.ALL.numbers == list(range(1, 15))

    def test_every_method_of_the_service_has_a_handler(self) -> None:
        methods = {method.name for method in SERVICE.methods}
        assert {handler.rpc for handler in HANDLERS} == methods - {"StateChange"}

    @pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
    def test_the_arguments_are_fields_of_the_request(self, handler: Handler) -> None:
        request = SERVICE.methods_by_name[handler.rpc].input_type
        assert set(handler.fields) <= {field.name for field in request.fields}

    def test_nine_events_come_by_state_change(self) -> None:
        assert sorted(BY_EVENT) == [1, 2, 3, 5, 6, 7, 9, 11, 13]
        fields = {field.name for field in nri_pb2.StateChangeEvent.DESCRIPTOR.fields}
        assert all(set(handler.fields) <= fields for handler in BY_EVENT.values())

    def test_a_name_is_the_event_in_snake_case(self) -> None:
        assert BY_NAME["post_update_pod_sandbox"].rpc == "PostUpdatePodSandbox"
        for number, handler in EVENTS.items():
            assert handler.name == nri_pb2.Event.Name(number).lower()
            assert handler.rpc == api.pretty_name(number)


class TestFinding:
    @pytest.mark.parametrize("handler", HANDLERS, ids=lambda handler: handler.name)
    def test_each_handler_alone(self, handler: Handler) -> None:
        function = lambda *arguments: None  # noqa: E731
        found, mask = find_handlers(PluginWith(**{handler.name: function}))
        assert found == {handler.name: function}
        assert mask == (EventMask.of(handler.event) if handler.event else EventMask(0))

    def test_a_subclass_has_only_its_own_handlers(self) -> None:
        class Mine(nri_sync.Plugin):
            def create_container(self, pod: object, container: object) -> None:
                pass

        class Further(Mine):
            def run_pod_sandbox(self, pod: object) -> None:
                pass

        assert find_handlers(Mine())[1] == EventMask.CREATE_CONTAINER
        found, mask = find_handlers(Further())
        assert set(found) == {"create_container", "run_pod_sandbox"}
        assert mask == EventMask.CREATE_CONTAINER | EventMask.RUN_POD_SANDBOX

    def test_a_method_that_an_instance_of_the_base_class_was_given(self) -> None:
        plugin = nri_sync.Plugin()
        plugin.run_pod_sandbox = lambda pod: None  # type: ignore[method-assign]
        assert find_handlers(plugin)[1] == EventMask.RUN_POD_SANDBOX

    def test_a_module_may_be_a_plugin(self) -> None:
        module = types.ModuleType("plugin")
        module.__dict__["stop_container"] = lambda pod, container: []
        assert find_handlers(module)[1] == EventMask.STOP_CONTAINER

    def test_a_handler_that_is_none_is_not_there(self) -> None:
        class Without(PluginWith):
            run_pod_sandbox = None

        found, _ = find_handlers(Without(stop_pod_sandbox=lambda pod: None))
        assert set(found) == {"stop_pod_sandbox"}

    def test_other_ways_to_be_callable(self) -> None:
        class Callable:
            def __call__(self, pod: object, container: object) -> None:
                pass

        class Plugin:
            @staticmethod
            def start_container(pod: object, container: object) -> None:
                pass

            @classmethod
            def stop_container(cls, pod: object, container: object) -> None:
                pass

            create_container = Callable()
            run_pod_sandbox = staticmethod(functools.partial(lambda extra, pod: None, 1))
            remove_pod_sandbox = print

        assert set(find_handlers(Plugin())[0]) == {
            "create_container", "start_container", "stop_container", "run_pod_sandbox",
            "remove_pod_sandbox",
        }  # fmt: skip

    @pytest.mark.parametrize("chained", [False, True])
    def test_a_mixin_behind_the_base_class(self, chained: bool) -> None:
        class Mixin:
            def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
                calls.append(pod)

            def create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
                raise AssertionError("the plugin has its own")

        class Mine(nri_sync.Plugin, Mixin):
            def create_container(self, pod: api.PodSandbox, container: api.Container) -> None:
                calls.append(container)

        class Further(Mine): ...

        calls: list[Any] = []
        plugin: Any = chain(Further()) if chained else Further()
        found, mask = find_handlers(plugin)
        assert mask == EventMask.CREATE_CONTAINER | EventMask.RUN_POD_SANDBOX
        pod = api.PodSandbox(id="p")
        found["run_pod_sandbox"](pod)
        container = api.Container(id="c")
        found["create_container"](pod, container)
        assert calls == [pod, container]

    def test_a_mixin_that_hides_a_handler_of_the_base_class(self) -> None:
        class Mixin:
            run_pod_sandbox = None

            def stop_pod_sandbox(self, pod: object) -> None: ...

        class Mine(nri_sync.Plugin, Mixin): ...  # type: ignore[misc]

        assert set(find_handlers(Mine())[0]) == {"stop_pod_sandbox"}

    def test_a_mixin_is_checked_like_any_other(self) -> None:
        class Mixin:
            def run_pod_sandbox(self, pod: object, container: object) -> None: ...

        class Mine(nri_sync.Plugin, Mixin): ...  # type: ignore[misc]

        with pytest.raises(PluginError, match="cannot be called as run_pod_sandbox"):
            find_handlers(Mine())

    def test_arguments_may_have_other_names_and_defaults(self) -> None:
        def handler(p: object, c: object, *, verbose: bool = False) -> None:
            pass

        assert set(find_handlers(PluginWith(create_container=handler))[0]) == {"create_container"}

    def test_unrelated_properties_are_not_read(self) -> None:
        class Plugin(PluginWith):
            @property
            def inventory(self) -> None:
                raise AssertionError("looked at")

        find_handlers(Plugin(shutdown=lambda: None))


class TestRefusing:
    @pytest.mark.parametrize("plugin", [None, object(), 42, nri_sync.Plugin(), "create_container"])
    def test_no_handlers(self, plugin: object) -> None:
        with pytest.raises(
            PluginError, match="has no handlers; it needs at least one of: configure"
        ):
            find_handlers(plugin)

    def test_the_plugin_is_named(self) -> None:
        with pytest.raises(PluginError, match="the plugin PluginWith has no handlers"):
            find_handlers(PluginWith())
        with pytest.raises(PluginError, match="the plugin None"):
            find_handlers(None)

    def test_a_class_instead_of_an_instance(self) -> None:
        class Mine(nri_sync.Plugin):
            def create_container(self, pod: object, container: object) -> None:
                pass

        for plugin in (Mine, nri_sync.Plugin):
            with pytest.raises(PluginError, match=r"the plugin class \S+ \(is an instance meant"):
                find_handlers(plugin)

    @pytest.mark.parametrize(
        ("wrong", "meant"),
        [
            ("CreateContainer", "create_container(pod, container)"),
            ("createContainer", "create_container(pod, container)"),
            ("create_containers", "create_container(pod, container)"),
            ("creat_container", "create_container(pod, container)"),
            ("run_podsandbox", "run_pod_sandbox(pod)"),
            ("run_pod_sandboxes", "run_pod_sandbox(pod)"),
            ("synchronise", "synchronize(pods, containers)"),
            ("Configure", "configure(config, runtime, version)"),
            ("shut_down", "shutdown()"),
            ("validate_container_adjustments", "validate_container_adjustment(request)"),
        ],
    )
    def test_a_misspelt_handler(self, wrong: str, meant: str) -> None:
        plugin = PluginWith(**{wrong: lambda *arguments: None, "stop_container": lambda p, c: None})
        with pytest.raises(PluginError) as caught:
            find_handlers(plugin)
        assert f"{wrong} is not a handler; did you mean {meant}?" in str(caught.value)

    @pytest.mark.parametrize(
        "name", ["_create_container_", "containers", "update", "start", "run", "main", "on_close"]
    )
    def test_other_methods_are_no_misspelt_handlers(self, name: str) -> None:
        plugin = PluginWith(**{name: lambda: None, "stop_container": lambda p, c: None})
        assert set(find_handlers(plugin)[0]) == {"stop_container"}

    def test_data_is_no_misspelt_handler(self) -> None:
        plugin = PluginWith(create_containers=[1], stop_container=lambda p, c: None)
        assert set(find_handlers(plugin)[0]) == {"stop_container"}

    @pytest.mark.parametrize(
        ("handler", "meant"),
        [
            (lambda pod: None, "missing|too many"),
            (lambda pod, container, resources: None, "missing a required argument: 'resources'"),
            (lambda: None, "too many positional arguments"),
        ],
    )
    def test_wrong_arguments(self, handler: Any, meant: str) -> None:
        with pytest.raises(PluginError, match=meant) as caught:
            find_handlers(PluginWith(create_container=handler))
        assert "cannot be called as create_container(pod, container)" in str(caught.value)

    def test_a_keyword_only_argument(self) -> None:
        def handler(pod: object, *, container: object) -> None:
            pass

        with pytest.raises(PluginError, match="cannot be called as create_container"):
            find_handlers(PluginWith(create_container=handler))

    def test_an_async_handler(self) -> None:
        async def handler(pod: object, container: object) -> None:
            pass

        with pytest.raises(PluginError, match="create_container is async; handlers are ordinary"):
            find_handlers(PluginWith(create_container=handler))

    def test_an_object_that_is_called_asynchronously(self) -> None:
        class Handler:
            async def __call__(self, pod: object, container: object) -> None: ...

        with pytest.raises(PluginError, match="create_container is async; handlers are ordinary"):
            find_handlers(PluginWith(create_container=Handler()))

    @pytest.mark.parametrize("name", [handler.name for handler in HANDLERS])
    def test_parameters_in_any_other_order(self, name: str) -> None:
        parameters = BY_NAME[name].parameters
        for order in itertools.permutations(parameters):
            namespace: dict[str, Any] = {}
            exec(f"def handler({', '.join(order)}): ...", namespace)
            plugin = PluginWith(**{name: namespace["handler"]})
            if order == parameters:
                assert set(find_handlers(plugin)[0]) == {name}
                continue
            with pytest.raises(PluginError, match="gets its arguments in another order") as caught:
                find_handlers(plugin)
            assert f"({', '.join(parameters)})" in str(caught.value)
            assert f"({', '.join(order)})" in str(caught.value)

    @pytest.mark.parametrize(
        ("name", "handler"),
        [
            ("create_container", lambda ctr, sandbox: None),
            ("create_container", lambda _container, _pod: None),
            ("create_container", lambda one, pod: None),
            ("create_container", lambda container, two, *more: None),
            ("synchronize", lambda ctrs, pod_sandboxes: None),
            ("update_container", lambda pod, other, container: None),
            ("update_container", lambda pod, resources, other: None),
            ("create_container", functools.partial(lambda log, container, pod: None, None)),
        ],
    )
    def test_names_that_give_another_order_away(self, name: str, handler: Any) -> None:
        with pytest.raises(PluginError, match="in another order, by position"):
            find_handlers(PluginWith(**{name: handler}))

    def test_types_that_give_another_order_away(self) -> None:
        def swapped(one: api.Container, two: api.PodSandbox) -> None: ...
        def lists(one: list[nri_pb2.Container], two: Any) -> None: ...
        def late(one: Any, two: Any, three: api.Container | None) -> None: ...

        late.__annotations__["three"] = Optional[api.Container]  # not a str
        cases = {"create_container": swapped, "synchronize": lists, "update_container": late}
        for name, handler in cases.items():
            with pytest.raises(PluginError, match="in another order, by position"):
                find_handlers(PluginWith(**{name: handler}))

    @pytest.mark.parametrize(
        "handler",
        [
            lambda pod, ctr: None,
            lambda sandbox, container: None,
            lambda request, resources: None,
            lambda *args: None,
            lambda pod, *args, container=None: None,
            lambda pod, c, overhead=None: None,
        ],
    )
    def test_neutral_parameter_names_and_matching_ones_are_accepted(self, handler: Any) -> None:
        assert find_handlers(PluginWith(create_container=handler))[0]

    def test_types_in_order(self) -> None:
        def handler(
            one: Annotated[api.PodSandbox, "of the Container"], two: api.Container | None
        ) -> None: ...

        assert find_handlers(PluginWith(create_container=handler))[0]

    def test_not_a_method(self) -> None:
        with pytest.raises(PluginError, match="create_container is not a method"):
            find_handlers(PluginWith(create_container=42))

    def test_the_error_is_a_type_error(self) -> None:
        with pytest.raises(TypeError):
            find_handlers(None)


def generated() -> Iterator[nri_pb2.ContainerUpdate]:
    yield UPDATE
    yield OTHER


class TestReplies:
    @pytest.mark.parametrize(
        "result",
        [
            nri_pb2.ContainerAdjustment(args=["x"]),
            (nri_pb2.ContainerAdjustment(args=["x"]), None),
            (nri_pb2.ContainerAdjustment(args=["x"]), []),
            nri_pb2.CreateContainerResponse(adjust=nri_pb2.ContainerAdjustment(args=["x"])),
        ],
    )
    def test_an_adjustment(self, result: Any) -> None:
        reply = BY_NAME["create_container"].reply(result)
        assert reply == nri_pb2.CreateContainerResponse(
            adjust=nri_pb2.ContainerAdjustment(args=["x"])
        )

    def test_nothing_is_no_adjustment(self) -> None:
        assert BY_NAME["create_container"].reply(None) == nri_pb2.CreateContainerResponse()
        assert BY_NAME["create_container"].reply((None, None)) == nri_pb2.CreateContainerResponse()

    def test_an_adjustment_and_updates(self) -> None:
        adjustment = nri_pb2.ContainerAdjustment(args=["x"])
        reply = BY_NAME["create_container"].reply((adjustment, (UPDATE,)))
        assert (reply.adjust, list(reply.update)) == (adjustment, [UPDATE])
        assert list(BY_NAME["create_container"].reply((None, [UPDATE])).update) == [UPDATE]

    def test_builders(self) -> None:
        reply = BY_NAME["create_container"].reply((api.Adjustment().add_env("A", "B"), None))
        assert [(env.key, env.value) for env in reply.adjust.env] == [("A", "B")]
        reply = BY_NAME["update_container"].reply([api.Update("ctr1"), UPDATE])
        assert [update.container_id for update in reply.update] == ["ctr1", "ctr0"]

    @pytest.mark.parametrize("name", ["update_container", "stop_container", "synchronize"])
    @pytest.mark.parametrize("result", [[UPDATE, OTHER], (UPDATE, OTHER), generated])
    def test_updates(self, name: str, result: Any) -> None:
        reply = BY_NAME[name].reply(result() if callable(result) else result)
        assert list(reply.update) == [UPDATE, OTHER]

    @pytest.mark.parametrize("name", ["update_container", "stop_container", "synchronize"])
    @pytest.mark.parametrize("result", [None, [], ()])
    def test_no_updates(self, name: str, result: Any) -> None:
        reply = BY_NAME[name].reply(result)
        assert list(reply.update) == []

    def test_a_raw_adjustment_that_repeats_itself(self) -> None:
        raw = nri_pb2.ContainerAdjustment()
        for _ in range(2):
            raw.env.add(key="A", value="1")
        before = raw.SerializeToString()
        reply = BY_NAME["create_container"].reply
        for result in (raw, (raw, None), nri_pb2.CreateContainerResponse(adjust=raw)):
            assert [entry.key for entry in reply(result).adjust.env] == ["A"]
        assert raw.SerializeToString() == before
        raw.env[1].value = "2"
        for result in (raw, (raw, None), nri_pb2.CreateContainerResponse(adjust=raw)):
            with pytest.raises(ValueError, match=r"'A' is set twice.*\"1\".*\"2\""):
                reply(result)

    @pytest.mark.parametrize("name", ["create_container", "update_container", "stop_container"])
    @pytest.mark.parametrize("raw", [False, True])
    def test_one_container_twice(self, name: str, raw: bool) -> None:
        handler = BY_NAME[name]

        def reply(updates: list[Any]) -> Any:
            answer: Any = (None, updates) if name == "create_container" else updates
            if raw:
                answer = PLUGIN.methods[handler.rpc].response(update=updates)
            return handler.reply(answer)

        first = api.Update("ctr0").set_cpu(cpus="1").message
        other = api.Update("ctr0").set_cpu(mems="0").message
        both = api.Update("ctr0").set_cpu(cpus="1", mems="0").message
        assert list(reply([first, OTHER, first]).update) == [first, OTHER]
        assert list(reply([first, other]).update) == [both]
        with pytest.raises(ValueError, match=r"'ctr0' .* 'cpus' .* '1', then '2'"):
            reply([first, api.Update("ctr0").set_cpu(cpus="2").message])

    def test_synchronize_may_update_a_container_twice(self) -> None:
        updates = [api.Update("ctr0").set_cpu(cpus=cpus).message for cpus in ("1", "2")]
        assert list(BY_NAME["synchronize"].reply(updates).update) == updates

    @pytest.mark.parametrize("name", ["update_container", "stop_container", "synchronize"])
    def test_the_response_itself(self, name: str) -> None:
        response = BY_NAME[name].reply([UPDATE])
        assert BY_NAME[name].reply(response) is response

    @pytest.mark.parametrize(
        ("name", "result"),
        [
            ("create_container", "adjustment"),
            ("create_container", UPDATE),
            ("create_container", [UPDATE]),
            ("create_container", (nri_pb2.ContainerAdjustment(), UPDATE)),
            ("create_container", (nri_pb2.ContainerAdjustment(), [Exception()])),
            ("create_container", (1, 2, 3)),
            ("update_container", UPDATE),
            ("update_container", True),
            ("update_container", ["ctr0"]),
            ("stop_container", nri_pb2.UpdateContainerResponse()),
            ("synchronize", 5),
            ("run_pod_sandbox", True),
            ("post_update_container", [UPDATE]),
            ("shutdown", 0),
        ],
    )
    def test_results_of_a_wrong_type(self, name: str, result: Any) -> None:
        with pytest.raises(TypeError, match="expected"):
            BY_NAME[name].reply(result)

    @pytest.mark.parametrize("name", [name for name in BY_NAME if name.startswith("post_")])
    def test_handlers_of_past_events_return_nothing(self, name: str) -> None:
        assert BY_NAME[name].reply(None) is None


class TestAskedEvents:
    HANDLED = EventMask.RUN_POD_SANDBOX | EventMask.CREATE_CONTAINER

    @pytest.mark.parametrize("result", [None, 0, EventMask(0)])
    def test_without_a_choice_all_handled_events_are_selected(self, result: Any) -> None:
        events = asked_events(result, self.HANDLED)
        assert events == self.HANDLED
        assert not events.required

    def test_some(self) -> None:
        assert asked_events(1, self.HANDLED) == EventMask.RUN_POD_SANDBOX

    @pytest.mark.parametrize("required", [0, EventMask.UPDATE_POD_SANDBOX, EventMask.ALL])
    def test_required_events_stay_required(self, required: EventMask) -> None:
        events = asked_events(
            EventMask.ALL | EventMask.of(*EventMask(required).numbers), ~EventMask(0)
        )
        assert events == EventMask.ALL
        assert events.required == required

    def test_an_event_without_a_handler_is_refused(self) -> None:
        with pytest.raises(ValueError, match="no handler: StopPodSandbox"):
            asked_events(EventMask.STOP_POD_SANDBOX, self.HANDLED)

    def test_no_mask(self) -> None:
        with pytest.raises(TypeError, match="returned str"):
            asked_events("all", self.HANDLED)


class TestPlainHandlers:
    """Plain handlers need no check of their signature, for which inspect would be loaded."""

    PROGRAM = """
import sys
import traceback  # on Python 3.14 it loads inspect itself
from types import SimpleNamespace

blocked = sys.modules["inspect"] = object()  # without an attribute
from nri_sync.api import handlers

{handler}

class Plain:
    data = 1
    _private = None

    def run_pod_sandbox(self, pod): ...

    @staticmethod
    def stop_pod_sandbox(pod): ...

    def other(self): ...

found, _ = handlers.find_handlers({plugin})
print(sorted(found))
"""

    def find(self, handler: str, plugin: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", self.PROGRAM.format(handler=handler, plugin=plugin)],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    def test_need_no_inspect(self) -> None:
        assert self.find("", "Plain()") == "['run_pod_sandbox', 'stop_pod_sandbox']"
        made = "SimpleNamespace(run_pod_sandbox=lambda pod: None, data=2)"
        assert self.find("", made) == "['run_pod_sandbox']"

    @pytest.mark.parametrize(
        "handler",
        [
            "def handler(sandbox): ...",
            "def handler(pod: str): ...",
            "def handler(pod, more=1): ...",
            "def handler(pod, *more): ...",
            "def handler(pod, **more): ...",
            "def handler(pod, *, more=1): ...",
            "async def handler(pod): ...",
            "def handler(pod): yield",
            "def handler(pod): ...\nhandler.mark = 1",
            "class Handler:\n    def __call__(self, pod): ...\nhandler = Handler()",
        ],
    )
    def test_other_callables_are_inspected(self, handler: str) -> None:
        text = self.find(handler, "SimpleNamespace(run_pod_sandbox=handler)")
        assert "'object' object has no attribute" in text
