"""Several plugins as one."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.api import EventMask
from nri_sync.api.handlers import HANDLERS, Handler, find_handlers
from nri_sync.errors import ConflictError, PluginError
from nri_sync.kit import chain
from nri_sync.kit.program.definition import check_hooks
from nri_sync.runtime import Runtime
from tests.plugin.harness import CONTAINER, POD, PluginWith
from tests.runtime.rig import LONG, Host, host_options, update_of

__all__: list[str] = []

EVENT_HANDLERS = [handler for handler in HANDLERS if handler.name != "configure"]


def recording(calls: list[Any], who: str, *names: str, **replies: Any) -> PluginWith:
    """A plugin with the handlers ``names`` and ``replies``, which records its calls."""

    def handler(name: str) -> Any:
        def call(*arguments: Any) -> Any:
            calls.append((who, name, arguments))
            reply = replies.get(name)
            if isinstance(reply, BaseException):
                raise reply
            return reply

        return call

    return PluginWith(**{name: handler(name) for name in (*names, *replies)})


class TestConstruction:
    def test_the_handlers_are_the_union(self) -> None:
        calls: list[Any] = []
        first = recording(calls, "first", "synchronize", "run_pod_sandbox")
        second = recording(calls, "second", "run_pod_sandbox", "create_container")
        found, mask = find_handlers(chain(first, second))
        assert set(found) == {"synchronize", "run_pod_sandbox", "create_container"}
        assert mask == EventMask.RUN_POD_SANDBOX | EventMask.CREATE_CONTAINER

    def test_a_subclass_of_plugin_has_only_its_own_handlers(self) -> None:
        class Mine(nri_sync.Plugin):
            def remove_container(self, pod: Any, container: Any) -> None: ...

        assert set(find_handlers(chain(Mine()))[0]) == {"remove_container"}

    def test_a_module_is_a_plugin_too(self) -> None:
        module = types.ModuleType("observer")
        module.__dict__["shutdown"] = lambda: None
        assert repr(chain(module, chain(module))) == "chain(observer, chain(observer))"

    def test_a_chain_needs_a_plugin(self) -> None:
        with pytest.raises(PluginError, match="at least one plugin"):
            chain()

    def test_an_invalid_plugin_is_refused_at_once(self) -> None:
        good = PluginWith(shutdown=lambda: None)
        for wrong in (
            PluginWith(),
            PluginWith(create_containers=lambda pod, container: None),
            PluginWith(run_pod_sandbox=lambda: None),
            None,
        ):
            with pytest.raises(PluginError):
                chain(good, wrong)


class TestCalling:
    @pytest.mark.parametrize("handler", EVENT_HANDLERS, ids=lambda handler: handler.name)
    def test_each_handler_in_order_with_the_same_arguments(self, handler: Handler) -> None:
        calls: list[Any] = []
        plugins = [recording(calls, who, handler.name) for who in "abc"]
        other = recording(
            calls, "other", "shutdown" if handler.name != "shutdown" else "synchronize"
        )
        found, _ = find_handlers(chain(plugins[0], chain(plugins[1], other), plugins[2]))
        arguments = tuple(object() for _ in handler.parameters)
        result = found[handler.name](*arguments)
        assert [(who, name) for who, name, _ in calls] == [(who, handler.name) for who in "abc"]
        assert all(a is b for _, _, given in calls for a, b in zip(given, arguments))
        empty = handler.reply(None)
        assert handler.reply(result) == empty

    def test_an_error_ends_the_chain_and_reaches_the_caller(self) -> None:
        error = LookupError("no such device")
        calls: list[Any] = []
        plugins = [
            recording(calls, "a", "start_container"),
            recording(calls, "b", start_container=error),
            recording(calls, "c", "start_container"),
        ]
        with pytest.raises(LookupError) as caught:
            chain(*plugins).start_container(POD, CONTAINER)  # type: ignore[attr-defined]
        assert caught.value is error
        assert [who for who, _, _ in calls] == ["a", "b"]

    def test_a_result_where_none_is_expected_names_the_plugin(self) -> None:
        plugins = [recording([], "a", "start_container"), recording([], "b", start_container=3)]
        with pytest.raises(
            TypeError, match=r"^PluginWith, plugin 2 of the chain: .*returned int, but nothing"
        ):
            chain(*plugins).start_container(POD, CONTAINER)  # type: ignore[attr-defined]


def answer(name: str, *plugins: object) -> Any:
    """Return the response that the stub makes of a chain's result."""
    handler = next(handler for handler in HANDLERS if handler.name == name)
    arguments = [api.PodSandbox(id="pod0"), api.Container(id="ctr0"), None][
        : len(handler.parameters)
    ]
    return handler.reply(find_handlers(chain(*plugins))[0][name](*arguments))


class TestAnswers:
    @pytest.mark.parametrize("name", ["synchronize", "update_container", "stop_container"])
    def test_updates_are_concatenated(self, name: str) -> None:
        one, two = update_of("ctr1"), update_of("ctr2", 7)
        plugins = [
            recording([], "a", **{name: [api.Update.of(one)]}),
            recording([], "b", **{name: None}),
            recording([], "c", **{name: iter([two, one])}),
        ]
        # A runtime may apply updates one after the other, so one container may appear twice.
        again = [one] if name == "synchronize" else []
        assert list(answer(name, *plugins).update) == [one, two, *again]

    def test_updates_that_differ(self) -> None:
        plugins = [
            recording([], name, update_container=[update_of("ctr1", shares)])
            for name, shares in (("a", 7), ("b", 8))
        ]
        with pytest.raises(ValueError, match=r"'ctr1' .* 'shares' .* 'value: 7', then 'value: 8'"):
            answer("update_container", *plugins)

    def test_evictions_are_concatenated(self) -> None:
        first = api.UpdateContainerResponse(evict=[api.eviction("ctr1")])
        second = api.UpdateContainerResponse(evict=[api.eviction("ctr2")], update=[update_of("x")])
        plugins = [recording([], "a", update_container=reply) for reply in (first, second)]
        united = answer("update_container", *plugins)
        assert [eviction.container_id for eviction in united.evict] == ["ctr1", "ctr2"]
        # The chain does not change the messages that the plugins have returned.
        assert len(first.evict) == 1

    @pytest.mark.parametrize("position", [0, 1, 2])
    def test_one_plugin_may_adjust(self, position: int) -> None:
        adjustment = api.Adjustment().add_env("A", "1")
        replies: list[Any] = [None, api.Adjustment(), (None, [update_of("ctr1")])]
        replies.insert(position, (adjustment, [update_of("ctr2")]))
        response = answer(
            "create_container", *(recording([], "x", create_container=reply) for reply in replies)
        )
        assert response.adjust == adjustment.message
        assert {update.container_id for update in response.update} == {"ctr1", "ctr2"}

    def test_two_plugins_may_not_adjust_the_same_field(self) -> None:
        class Devices:
            def create_container(self, pod: Any, container: Any) -> Any:
                return api.Adjustment().add_env("A", "1")

        class Limits(Devices):
            pass

        observer = recording([], "x", "create_container")
        with pytest.raises(ConflictError) as caught:
            answer("create_container", observer, Devices(), Limits(), observer)
        for part in ("create_container", "'ctr0'", "Devices, plugin 2", "Limits, plugin 3"):
            assert part in str(caught.value)
        assert caught.value.plugin == "Limits, plugin 3 of the chain"

    def test_two_plugins_in_nested_chains_may_not_either(self) -> None:
        adjusting = recording([], "x", create_container=api.Adjustment().add_env("A", "1"))
        with pytest.raises(ConflictError, match=r"chain\(PluginWith\), plugin 2"):
            answer("create_container", adjusting, chain(adjusting))


def configure(plugin: Any, runtime: str = "containerd", version: str = "v2.4.0") -> Any:
    return plugin.configure("", runtime, version)


class TestEvents:
    def test_without_configure_all_events_with_handlers_are_chosen(self) -> None:
        plugin = recording([], "a", "start_container")
        assert not hasattr(chain(plugin, plugin), "configure")
        mask = configure(chain(plugin, recording([], "b", "shutdown", configure=None)))
        assert (mask, mask.required) == (find_handlers(plugin)[1], 0)

    def test_masks_are_united(self) -> None:
        calls: list[Any] = []
        choosing = recording(
            calls,
            "choosing",
            "start_container",
            "stop_container",
            configure=EventMask.START_CONTAINER,
        )
        observer = recording(calls, "observer", "stop_container", "remove_container")
        both: Any = chain(observer, choosing)
        assert configure(both) == EventMask.parse("startcontainer,stopcontainer,removecontainer")
        # The plugin that has chosen is not called for events that only the observer has chosen.
        calls.clear()
        for name in ("start_container", "stop_container", "remove_container"):
            getattr(both, name)(POD, CONTAINER)
        assert [(who, name) for who, name, _ in calls] == [
            ("choosing", "start_container"),
            ("observer", "stop_container"),
            ("observer", "remove_container"),
        ]

    def test_the_choice_is_made_anew_in_each_session(self) -> None:
        choices = [EventMask.START_CONTAINER, None, EventMask.STOP_CONTAINER]
        calls: list[str] = []
        plugin = PluginWith(
            configure=lambda config, runtime, version: choices.pop(0),
            start_container=lambda pod, container: calls.append("start"),
            stop_container=lambda pod, container: calls.append("stop"),
        )
        both: Any = chain(plugin)
        heard = []
        for _ in range(3):
            configure(both)
            both.start_container(POD, CONTAINER)
            both.stop_container(POD, CONTAINER)
            heard.append(calls[:])
            calls.clear()
        assert heard == [["start"], ["start", "stop"], ["stop"]]

    def test_events_of_a_plugin_without_configure_are_optional(self) -> None:
        observer = recording([], "a", "run_pod_sandbox", "update_pod_sandbox")
        choosing = recording([], "b", "start_container", configure=EventMask.START_CONTAINER)
        nested = chain(chain(observer), choosing)
        mask = configure(nested)
        assert mask == EventMask.parse("startcontainer,runpodsandbox,updatepodsandbox")
        assert mask.required == EventMask.START_CONTAINER

    def test_an_event_that_one_plugin_requires_is_required(self) -> None:
        observer = recording([], "a", "run_pod_sandbox", "update_pod_sandbox")
        mask = EventMask.UPDATE_POD_SANDBOX
        choosing = recording([], "b", "update_pod_sandbox", configure=mask)
        assert configure(chain(observer, choosing)).required == mask

    def test_events_without_a_handler_name_the_plugin(self) -> None:
        choosing = recording([], "b", "start_container", configure=EventMask.STOP_CONTAINER)
        both = chain(recording([], "a", "stop_container"), choosing)
        with pytest.raises(ValueError, match=r"plugin 2 of the chain: .*StopContainer"):
            configure(both)
        choosing = recording([], "b", "start_container", configure="all")
        with pytest.raises(TypeError, match="plugin 1 of the chain: configure returned str"):
            configure(chain(choosing))


class TestPrograms:
    """The attributes and calls that ``kit.main`` gives to a plugin."""

    def test_attributes_reach_all(self) -> None:
        class Roomless:
            __slots__ = ()

            def run_pod_sandbox(self, pod: Any) -> None: ...

        first, second = PluginWith(shutdown=print), PluginWith(shutdown=print)
        chained = chain(chain(first, Roomless()), second)
        chained.stub = chained.config = "given"
        for plugin in (first, second):
            assert (plugin.stub, plugin.config) == ("given", "given")  # type: ignore[attr-defined]

    def test_hooks_of_all_are_called_in_order(self) -> None:
        calls: list[Any] = []
        first = PluginWith(shutdown=print, on_connected=lambda stub: calls.append((1, stub)))
        second = PluginWith(shutdown=print, on_stop=lambda: calls.append("stop"), on_top="of it")
        third = PluginWith(shutdown=print, on_connected=lambda stub: calls.append((3, stub)))
        chained: Any = chain(chain(first, second), third)
        chained.on_connected("stub")
        chained.on_stop()
        assert calls == [(1, "stub"), (3, "stub"), "stop"]
        assert not hasattr(chained, "on_top")
        assert not hasattr(chained, "on_config")

    def test_a_hook_that_fails_keeps_none_from_being_called(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        calls: list[int] = []

        def failing(number: int) -> Any:
            def on_config(config: Any) -> None:
                calls.append(number)
                raise ValueError(f"not for {number}")

            return PluginWith(shutdown=print, on_config=on_config)

        chained: Any = chain(failing(1), failing(2))
        with pytest.raises(ValueError, match="not for 1"):
            chained.on_config({})
        assert calls == [1, 2]
        assert "not for 2" in caplog.text

    def test_a_misspelt_hook_is_refused(self) -> None:
        with pytest.raises(PluginError, match="on_conected is never called"):
            check_hooks(chain(PluginWith(shutdown=print, on_conected=print)))


class TestWithARuntime:
    def test_an_observer_and_a_plugin(self, socket_dir: Path) -> None:
        calls: list[Any] = []
        observer = recording(
            calls, "observer", "synchronize", "create_container", "remove_container"
        )
        plugin = recording(
            calls,
            "plugin",
            "start_container",
            configure=EventMask.CREATE_CONTAINER,
            create_container=api.Adjustment().add_env("A", "1"),
        )
        runtime = Runtime("test", "1", **host_options(Host(), socket_dir))
        with (
            runtime,
            nri_sync.Stub(
                chain(observer, plugin),
                name="test",
                idx="10",
                socket_path=str(socket_dir / "nri.sock"),
            ) as stub,
        ):
            assert runtime.wait_for_plugins(lambda names: "10-test" in names, LONG)
            assert stub.events == EventMask.CREATE_CONTAINER | EventMask.REMOVE_CONTAINER
            reply = runtime.create_container(POD, CONTAINER)
            runtime.start_container(POD, CONTAINER)
            runtime.remove_container(POD, CONTAINER)
        assert reply.adjust.env[0].value == "1"
        assert [(who, name) for who, name, _ in calls] == [
            ("plugin", "configure"),
            ("observer", "synchronize"),
            ("observer", "create_container"),
            ("plugin", "create_container"),
            ("observer", "remove_container"),
        ]
