"""A runtime for tests: its socket, its end, and the unsolicited requests of plugins."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import api
from nri_sync.errors import AlreadyStarted
from nri_sync.runtime import DefaultValidator, DefaultValidatorConfig
from nri_sync.testing import FakeRuntime, make_container, make_pod
from tests.runtime.rig import LONG
from tests.testing.plugins import Plugin

__all__: list[str] = []


class TestLifecycle:
    def test_a_socket_that_is_gone_afterwards(self) -> None:
        with FakeRuntime() as runtime:
            path = runtime.socket_path
            assert os.path.exists(path)
            assert len(path) < 108
        assert not os.path.exists(os.path.dirname(path))

    def test_a_socket_of_ones_own(self, socket_dir: Path) -> None:
        path = str(socket_dir / "my.sock")
        with FakeRuntime(socket_path=path) as runtime:
            assert runtime.socket_path == path
            assert os.path.exists(path)
        assert not os.path.exists(path)
        assert socket_dir.exists()

    def test_without_with(self) -> None:
        runtime = FakeRuntime()
        runtime.close()
        runtime.start()
        with pytest.raises(AlreadyStarted):
            runtime.start()
        runtime.stop()
        runtime.stop()
        runtime.start()
        runtime.close()
        runtime.close()
        assert runtime.plugins == ()
        with runtime:  # with a new directory
            assert os.path.exists(runtime.socket_path)

    def test_plugins_receive_the_facts_of_the_runtime(self) -> None:
        plugin = Plugin()
        runtime_with_facts = FakeRuntime(
            "cri-o", "1.36.0", nri_version="v0.12.0", request_timeout=3.5, registration_timeout=4.5
        )
        with runtime_with_facts as runtime, runtime.run_plugin(plugin, config="a: b") as stub:
            assert plugin.configured == ("a: b", "cri-o", "1.36.0")
            assert stub.runtime_nri_version == "v0.12.0"
            assert (stub.request_timeout, stub.registration_timeout) == (3.5, 4.5)

    def test_a_plugin_that_was_not_stopped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("nri_sync.testing.fake.WITHIN", 0.1)
        runtime = FakeRuntime()
        runtime.start()
        stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path)
        stub.start(LONG)
        runtime.wait_for(lambda: runtime.plugins, timeout=LONG)
        with pytest.raises(AssertionError, match="still connected at the end of the test: 10-test"):
            runtime.__exit__(None, None, None)
        assert stub.wait(LONG)
        assert runtime.plugins == ()

    def test_a_plugin_that_has_just_been_stopped_is_no_leftover(self, runtime: FakeRuntime) -> None:
        # The fixture raises if the plugin is still connected at the end.
        with nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path):
            runtime.wait_for(lambda: runtime.plugins)

    def test_the_exception_of_the_test_comes_first(self) -> None:
        runtime = FakeRuntime()
        runtime.start()
        stub = nri_sync.Stub(Plugin(), name="test", idx="10", socket_path=runtime.socket_path)
        stub.start(LONG)
        runtime.wait_for(lambda: runtime.plugins)
        runtime.__exit__(KeyError, KeyError(), None)
        assert stub.wait(LONG)

    def test_the_default_validator_is_no_leftover(self) -> None:
        validator = DefaultValidator(DefaultValidatorConfig())
        with FakeRuntime(default_validator=validator) as runtime:
            assert runtime.plugins == ("00-default-validator",)


class TestUnsolicited:
    def test_recorded_and_applied(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        container, failing = make_container(pod), make_container(pod)
        runtime.add(pod, container, failing)
        runtime.failing.add(failing.id)
        updates = [api.Update(id).set_cpu(shares=9) for id in (container.id, failing.id, "unknown")]
        eviction = api.eviction(container.id, "too loud")
        with runtime.run_plugin(Plugin()) as stub:
            failed = stub.update_containers(updates, [eviction])
        assert [update.container_id for update in failed] == [failing.id, "unknown"]
        assert [update.container_id for update in runtime.updates] == [
            container.id, failing.id, "unknown"
        ]  # fmt: skip
        assert runtime.evictions == [eviction]
        assert runtime.container(container).linux.resources.cpu.shares.value == 9
        assert runtime.container(failing).linux.resources.cpu.shares.value != 9

    def test_a_request_is_recorded_as_a_whole(
        self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[tuple[int, int]] = []

        class Seen(list):  # type: ignore[type-arg]
            """Looks at the recorded requests after each step of a change."""

            def append(self, item: Any) -> None:
                super().append(item)
                seen.append((len(runtime.updates), len(runtime.evictions)))

            def extend(self, items: Any) -> None:
                super().extend(items)
                seen.append((len(runtime.updates), len(runtime.evictions)))

        for name, value in list(vars(runtime).items()):
            if type(value) is list:
                monkeypatch.setattr(runtime, name, Seen(value))
        update = api.Update("unknown").set_cpu(shares=9)
        with runtime.run_plugin(Plugin()) as stub:
            stub.update_containers([update], [api.eviction("unknown", "too loud")])
        assert set(seen) == {(1, 1)}

    def test_waited_for(self, runtime: FakeRuntime) -> None:
        pod = make_pod()
        container = make_container(pod)
        runtime.add(pod, container)
        with runtime.run_plugin(Plugin()) as stub:
            update = api.Update(container.id).set_cpu(shares=9)
            worker = threading.Thread(target=stub.update_containers, args=([update],))
            worker.start()
            runtime.wait_for(lambda: runtime.updates)
            worker.join(LONG)

    def test_waited_for_in_vain(self, runtime: FakeRuntime) -> None:
        missing = r"an update has not come about within 0\.01 s; plugins: 10-test"
        with runtime.run_plugin(Plugin()), pytest.raises(AssertionError, match=missing):
            runtime.wait_for(lambda: runtime.updates, "an update", 0.01)
