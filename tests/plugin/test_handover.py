"""Instances of one plugin that take turns: each container is adjusted by one of them, and by one only."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable

import pytest

import nri_sync
from nri_sync import Backoff, Handover, api, errors
from nri_sync.errors import TurnTaken
from nri_sync.plugin.turns import Turn
from nri_sync.runtime import Runtime
from tests.plugin.harness import LONG, PluginWith, eventually

__all__: list[str] = []

POD = api.PodSandbox(id="pod0", name="web", namespace="default")
# For instances that hang; the others give signs each second at most.
SOON = 0.2


class Instance:
    """A plugin under run_forever(), on a new thread. It notes its name on each container."""

    def __init__(self, node: Node, name: str, **options: Any) -> None:
        self.name = name
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self.before_answer: Callable[[], object] = lambda: None
        patience = options.pop("patience", LONG)
        plugin_name = options.pop("plugin_name", "test")
        idx = options.pop("idx", "10")
        self.loop = {"backoff": Backoff(0.01, most=0.1), **options}
        self.handover = Handover(node.directory, patience=patience)
        self.stub = nri_sync.Stub(
            PluginWith(create_container=self.create, synchronize=self.synchronize),
            name=plugin_name, idx=idx, socket_path=node.path, interceptors=[self.handover],
        )  # fmt: skip
        self.synchronized = threading.Event()
        self.told: list[str] = []
        self.thread = threading.Thread(target=self.run, name=f"instance-{name}")
        self.thread.start()

    def run(self) -> None:
        try:
            nri_sync.run_forever(self.stub, **self.loop)
        except BaseException as error:
            self.error = error
        self.ended.set()

    def synchronize(self, pods: Any, containers: list[api.Container]) -> None:
        self.told = [container.id for container in containers]
        self.synchronized.set()

    def create(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        self.before_answer()
        return api.Adjustment().add_annotation("by", self.name)

    def expect_synchronized(self) -> None:
        assert self.synchronized.wait(LONG), f"{self.name} is not synchronized"

    def expect_waiting(self) -> None:
        eventually(lambda: self.handover.is_waiting, f"the stand-by of {self.name}")

    def end(self, how: str = "close", **options: float) -> None:
        getattr(self.stub, how)(**options)
        assert self.ended.wait(LONG)


class Node:
    """A runtime that creates containers without a break, and the outcome of each."""

    def __init__(self, directory: Path, **options: Any) -> None:
        self.directory = directory
        self.path = str(directory / "nri.sock")
        self.created: list[str] = []
        #: The plugin that adjusted each container; "" for none, an error for a conflict.
        self.by: list[str] = []
        self.runtime = Runtime(
            "node", "v1", synchronize=self._synchronize, update_containers=lambda u, e: [],
            socket_path=self.path, plugin_path=None, **options,
        )  # fmt: skip
        self._finished = threading.Event()
        self._made = threading.Condition()

    def _synchronize(self, deliver: Callable[..., Any]) -> None:
        containers = [api.Container(id=name, pod_sandbox_id="pod0") for name in self.created]
        deliver([POD], containers)

    def create(self) -> str:
        name = f"ctr{len(self.by)}"
        container = api.Container(id=name, pod_sandbox_id="pod0", name=name)
        with self.runtime.block_plugin_sync():
            try:
                found = self.runtime.create_container(POD, container).adjust.annotations
                by = found.get("by", "")
            except errors.NRIError as error:
                by = repr(error)
            self.created.append(name)
        with self._made:
            self.by.append(by)
            self._made.notify_all()
        return by

    def expect_created_by(self, name: str) -> None:
        with self._made:
            begin = len(self.by)
            assert self._made.wait_for(lambda: name in self.by[begin:], LONG), self.by[-20:]

    @contextmanager
    def creating(self) -> Iterator[None]:
        def work() -> None:
            while not self._finished.is_set():
                self.create()

        thread = threading.Thread(target=work, name="creating")
        thread.start()
        try:
            yield
        finally:
            self._finished.set()
            thread.join(LONG)


@pytest.fixture
def node(socket_dir: Path, request: pytest.FixtureRequest) -> Iterator[Node]:
    node = Node(socket_dir, **getattr(request, "param", {}))
    with node.runtime:
        yield node


@pytest.fixture
def run(node: Node) -> Iterator[Callable[..., Instance]]:
    with ExitStack() as stack:

        def run(name: str, **options: Any) -> Instance:
            instance = Instance(node, name, **options)
            stack.callback(instance.end)
            return instance

        yield run


Run = Callable[..., Instance]


class TestHandover:
    def test_one_after_the_other_without_a_gap(self, node: Node, run: Run) -> None:
        """Ten handovers while containers are created."""
        old = run("0")
        old.expect_synchronized()
        eventually(lambda: node.runtime.plugins)
        with node.creating():
            for number in range(1, 11):
                new = run(str(number))
                new.expect_waiting()
                # The runtime may still list the session before, which has ended.
                eventually(lambda: node.runtime.plugins == ("10-test",))
                assert not new.stub.counters.sessions
                node.expect_created_by(old.name)
                old.end()
                new.expect_synchronized()
                node.expect_created_by(new.name)
                old = new
        order = list(dict.fromkeys(node.by))
        assert order == [str(number) for number in range(11)]
        assert node.by == sorted(node.by, key=int)
        # Each instance gets the containers that earlier instances have adjusted.
        last = node.by.index("10")
        assert old.told == [f"ctr{number}" for number in range(last)]

    def test_the_session_ends_before_the_next_one_handles_anything(
        self, node: Node, run: Run
    ) -> None:
        states: list[Any] = []
        following: list[Instance] = []

        def note(stub: nri_sync.Stub) -> None:
            states.append((stub.started, following[0].synchronized.is_set()))

        old = run("old", on_stop=note)
        old.expect_synchronized()
        new = run("new")
        following.append(new)
        new.expect_waiting()
        old.end()
        new.expect_synchronized()
        # The old instance has written its state by then.
        assert states == [(False, False)]

    def test_with_any_index(self, node: Node, run: Run) -> None:
        run("old").expect_synchronized()
        new = run("new", idx="20")
        new.expect_waiting()
        other = run("other", plugin_name="other")
        other.expect_synchronized()

    @pytest.mark.parametrize("how", ["stop", "close"])
    def test_an_end_without_another_instance_takes_no_time(
        self, node: Node, run: Run, how: str
    ) -> None:
        instance = run("only")
        instance.expect_synchronized()
        options = {"grace": 10 * LONG} if how == "close" else {}
        instance.end(how, **options)  # within LONG
        run("next").expect_synchronized()

    def test_a_stop_hands_over_too(self, node: Node, run: Run) -> None:
        old = run("old")
        old.expect_synchronized()
        new = run("new")
        new.expect_waiting()
        old.end("stop")
        new.expect_synchronized()

    def test_the_stop_event_hands_over_without_a_gap(
        self, node: Node, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nri_sync.plugin.reconnect.SLICE", 0.01)
        event = threading.Event()
        old = run("old", stop_event=event)
        old.expect_synchronized()
        eventually(lambda: node.runtime.plugins)
        new = run("new")
        new.expect_waiting()
        with node.creating():
            node.expect_created_by("old")
            event.set()
            node.expect_created_by("new")
        assert set(node.by) == {"old", "new"}

    def test_where_the_runtime_cannot_synchronize_before_the_old_one_ends(
        self, node: Node, run: Run
    ) -> None:
        """As containerd, which blocks that while it stops the container of the old one."""
        old = run("old")
        old.expect_synchronized()
        new = run("new")
        new.expect_waiting()
        with node.runtime.block_plugin_sync():
            old.end("close", grace=10 * LONG)  # within LONG
            assert new.stub.started
            assert not new.synchronized.is_set()
            assert new.handover.is_waiting
        new.expect_synchronized()
        eventually(lambda: not new.handover.is_waiting)

    @pytest.mark.parametrize("node", [{"request_timeout": 10 * LONG}], indirect=True, ids=[""])
    def test_a_request_keeps_the_old_one(
        self, node: Node, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """That of a container that was being created when the new one has registered."""
        monkeypatch.setattr("nri_sync.plugin.handover.QUIET", 0.05)
        old = run("old")
        old.expect_synchronized()
        eventually(lambda: node.runtime.plugins)
        new = run("new")
        new.expect_waiting()
        busy, may_go_on = threading.Event(), threading.Event()

        def hold() -> None:
            busy.set()
            assert may_go_on.wait(LONG)

        old.before_answer = hold
        creating = threading.Thread(target=node.create)
        creating.start()
        assert busy.wait(LONG)
        closing = threading.Thread(target=old.stub.close, kwargs={"grace": 10 * LONG})
        closing.start()
        eventually(lambda: new.stub.started)
        assert not old.ended.wait(0.5)
        may_go_on.set()
        closing.join(LONG)
        creating.join(LONG)
        assert node.by == ["old"]
        new.expect_synchronized()

    def test_the_end_of_one_that_stands_by(self, node: Node, run: Run) -> None:
        old = run("old")
        old.expect_synchronized()
        new = run("new")
        new.expect_waiting()
        new.end()
        assert not new.handover.is_waiting
        assert new.error is None
        third = run("third")
        third.expect_waiting()
        old.end()
        third.expect_synchronized()

    def test_three_in_their_order(self, node: Node, run: Run) -> None:
        instances = [run(name) for name in ("first", "second", "third")]
        for _ in range(3):
            eventually(lambda: any(item.stub.started for item in instances))
            (serving,) = [item for item in instances if item.stub.started]
            for waiting in instances:
                if waiting is not serving:
                    waiting.expect_waiting()
            instances.remove(serving)
            serving.end()

    def test_listeners(self, node: Node, run: Run) -> None:
        old = run("old")
        old.expect_synchronized()
        told: queue.SimpleQueue[bool] = queue.SimpleQueue()
        new = run("new")
        new.expect_waiting()
        new.handover.on_change(lambda: told.put(new.handover.is_waiting))
        old.end()
        assert told.get(timeout=LONG) is False


class TestFailures:
    def test_a_new_one_that_fails_to_start_is_not_waited_for(self, node: Node, run: Run) -> None:
        """The old instance keeps its session for the time that it gives to a handover, and ends."""
        old = run("old")
        old.expect_synchronized()
        new = run("new")
        new.expect_waiting()
        new.stub._spec.source.path = node.path + ".missing"
        old.end(grace=1.0)  # four fifths of it for the handover
        assert old.error is None
        new.stub._spec.source.path = node.path
        new.expect_synchronized()

    def test_an_old_one_that_is_slow_to_end(self, node: Node, run: Run, caplog: Any) -> None:
        may_end = threading.Event()
        old = run("old", on_stop=lambda stub: may_end.wait(LONG))
        old.expect_synchronized()
        new = run("new")
        new.expect_waiting()
        old.stub.close()
        new.expect_synchronized()
        eventually(lambda: "10-test: the other instance takes long to end" in caplog.text)
        third = run("third")
        third.expect_waiting()
        may_end.set()
        assert old.ended.wait(LONG)
        assert old.error is None
        assert third.handover.is_waiting  # the lock is that of the new one

    def test_one_that_hangs_is_replaced(self, node: Node, run: Run, caplog: Any) -> None:
        stuck = Turn(str(node.directory / "test.turn"))
        assert stuck.take()
        new = run("new", patience=SOON)
        new.expect_synchronized()
        assert "has given no sign of life for 0.2 s: taking over" in caplog.text
        stuck.drop()
        run("third").expect_waiting()

    def test_one_that_stands_by_and_hangs_is_replaced(
        self, node: Node, run: Run, caplog: Any
    ) -> None:
        old = run("old")
        old.expect_synchronized()
        stuck = Turn(str(node.directory / "test.next"))
        assert stuck.take()
        new = run("new", patience=2.5)
        eventually(lambda: "stands by hangs: replacing it" in caplog.text)
        assert new.handover.is_waiting
        old.end()
        new.expect_synchronized()
        stuck.drop()

    def test_signs_of_life_keep_it(
        self, node: Node, run: Run, caplog: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also in a pause, and while there is no runtime."""
        monkeypatch.setattr("nri_sync.plugin.reconnect.SLICE", 0.02)
        old = run("old")
        old.expect_synchronized()
        turn = Turn(str(node.directory / "test.turn"))

        def expect_signs() -> None:
            seen = {turn.read()[1]}

            def have_come() -> bool:
                seen.add(turn.read()[1])
                return len(seen) > 3

            eventually(have_come)
            assert turn.read()[0] == b"serving"

        expect_signs()
        node.runtime.stop()
        expect_signs()

    def test_the_one_that_was_replaced_ends(
        self, node: Node, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("nri_sync.plugin.reconnect.SLICE", 0.02)
        old = run("old")
        old.expect_synchronized()
        other = Turn(str(node.directory / "test.turn"))
        other.take_over()
        assert old.ended.wait(LONG)
        assert isinstance(old.error, TurnTaken)
        assert not old.stub.started
        assert other.is_mine()
        other.drop()


class TestOptions:
    @pytest.mark.parametrize("place", [".", ".."])
    def test_a_directory_that_others_can_write(self, tmp_path: Path, place: str) -> None:
        directory = tmp_path / "above" / "instances"
        directory.mkdir(parents=True)
        (directory / place).chmod(0o777)
        with pytest.raises(PermissionError, match=r"others can write it \(mode 0777\)"):
            Handover(directory)
        # With the sticky bit the files of this user are safe, and those of others are refused one by one.
        (directory / place).chmod(0o1777)
        Handover(directory)

    def test_a_directory_that_is_none(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Handover(tmp_path / "missing")
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError):
            Handover(tmp_path / "file")

    def test_one_that_may_not_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("os.access", lambda path, mode: False)
        with pytest.raises(PermissionError) as caught:
            Handover(tmp_path)
        assert str(tmp_path) in str(caught.value)

    def test_patience(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="patience must be positive, not 0"):
            Handover(tmp_path, patience=0)

    def test_the_close_of_one_without_a_stub(self, tmp_path: Path) -> None:
        Handover(tmp_path).close()

    def test_one_for_each_stub(self, tmp_path: Path) -> None:
        handover = Handover(tmp_path)
        plugin = PluginWith(shutdown=lambda: None)
        options: dict[str, Any] = {"name": "a", "idx": "10", "interceptors": [handover]}
        stub = nri_sync.Stub(plugin, **options)
        assert stub.handover is handover
        with pytest.raises(ValueError, match="needs a Handover of its own"):
            nri_sync.Stub(plugin, **options)
        assert nri_sync.Stub(plugin, name="a", idx="10").handover is None
