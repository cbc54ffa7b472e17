"""Counts and durations of requests."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from nri_sync import api, kit
from nri_sync.codes import StatusCode
from nri_sync.errors import RequestFailed, ValidationRejected
from nri_sync.kit.health import metrics
from nri_sync.kit.health.metrics import Figures, RequestMetrics, Running
from tests.kit._node import CONTAINER, LONG, POD, Node, PluginWith, eventually
from tests.patience import say_request_timeout
from tests.runtime.rig import on_thread

__all__: list[str] = []

CREATE = api.CreateContainerRequest(pod=POD, container=CONTAINER)


class Context:
    """Replaces the context of a request."""

    def __init__(self, code: Any = None, active: bool = True) -> None:
        self._code = code
        self._active = active

    def code(self) -> Any:
        return self._code

    def is_active(self) -> bool:
        return self._active


class Clock:
    """Replaces the clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        stand_in = SimpleNamespace(monotonic=lambda: self.now, time=lambda: self.now + 1e9)
        monkeypatch.setattr(metrics, "time", stand_in)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def serve(
    requests: RequestMetrics,
    clock: Clock,
    seconds: float,
    *,
    event: str = "CreateContainer",
    request: Any = CREATE,
    reply: Any = None,
    error: Exception | None = None,
    **context: Any,
) -> None:
    def behaviour(request: Any, context: Any) -> Any:
        clock.now += seconds
        if error is not None:
            raise error
        return reply

    requests.serve(event, request, Context(**context), behaviour)  # type: ignore[arg-type]


class TestRequests:
    def test_outcomes(self, clock: Clock) -> None:
        requests = RequestMetrics()
        serve(requests, clock, 0.1)
        serve(requests, clock, 0.1, code=StatusCode.OK)
        serve(requests, clock, 0.1, code=StatusCode.INTERNAL)
        with pytest.raises(ValueError, match="no"):
            serve(requests, clock, 0.1, error=ValueError("no"))
        serve(requests, clock, 0.1, active=False)
        with pytest.raises(ValueError, match="no"):
            serve(requests, clock, 0.1, error=ValueError("no"), active=False)
        for reject in (True, False, True):
            reply = api.ValidateContainerAdjustmentResponse(reject=reject)
            serve(requests, clock, 0.1, event="ValidateContainerAdjustment", reply=reply)
        assert {event: figure.outcomes for event, figure in requests.figures().items()} == {
            "CreateContainer": {"ok": 2, "error": 2, "late": 2},
            "ValidateContainerAdjustment": {"rejected": 2, "ok": 1},
        }

    def test_durations(self, clock: Clock) -> None:
        requests = RequestMetrics(buckets=(0.25, 1, 4))
        for seconds in (0.125, 0.25, 0.5, 2, 8):  # exact in binary, like the clock
            serve(requests, clock, seconds)
        assert requests.figures()["CreateContainer"] == Figures(
            {"ok": 5}, {0.25: 2, 1: 3, 4: 4, math.inf: 5}, 10.875
        )

    @pytest.mark.parametrize("buckets", [(1, 1), (2, 1), (1, math.inf), (math.nan,)])
    def test_wrong_buckets(self, buckets: tuple[float, ...]) -> None:
        with pytest.raises(ValueError, match="buckets must be"):
            RequestMetrics(buckets=buckets)

    def test_running_requests_and_the_longest_of_them(self, clock: Clock) -> None:
        requests = RequestMetrics()
        assert (requests.running(), requests.longest()) == ([], 0.0)

        def inner(request: Any, context: Any) -> Any:
            clock.now += 2
            assert requests.longest() == 3
            return requests.running()

        def outer(request: Any, context: Any) -> Any:
            clock.now += 1
            stop: Any = api.StopPodSandboxRequest(pod=POD)
            return requests.serve("StopPodSandbox", stop, Context(), inner)  # type: ignore[arg-type]

        found = requests.serve("CreateContainer", CREATE, Context(), outer)  # type: ignore[arg-type]
        assert found == [
            Running("CreateContainer", "default/web:nginx", 3),
            Running("StopPodSandbox", "default/web", 2),
        ]
        assert str(found[0]) == "CreateContainer of default/web:nginx"
        assert str(Running("Configure", "", 1)) == "Configure"
        assert (requests.running(), requests.longest()) == ([], 0.0)

    def test_the_slowest(self, clock: Clock) -> None:
        requests = RequestMetrics()
        for seconds in (1, 4, 2):
            serve(requests, clock, seconds)
        serve(requests, clock, 3, event="Configure", request=api.ConfigureRequest())
        slow, other = requests.slowest()
        assert slow[:3] == ("CreateContainer", "default/web:nginx", 4)
        assert slow.at == 1e9 + 1005
        assert other[:3] == ("Configure", "", 3)

    def test_the_slowest_are_forgotten(self, clock: Clock) -> None:
        requests = RequestMetrics()
        serve(requests, clock, 4)
        clock.now += 300
        serve(requests, clock, 1)
        assert [slow.seconds for slow in requests.slowest()] == [4]
        clock.now += 300
        assert [slow.seconds for slow in requests.slowest()] == [1]
        clock.now += 300
        assert requests.slowest() == []
        serve(requests, clock, 2)
        clock.now += 10**6
        assert requests.slowest() == []

    def test_done(self, clock: Clock) -> None:
        done: list[Any] = []
        requests = RequestMetrics(on_done=lambda *about: done.append(about))
        serve(requests, clock, 1)
        with pytest.raises(ValueError, match="no"):
            serve(requests, clock, 2, error=ValueError("no"))
        assert done == [("CreateContainer", 1), ("CreateContainer", 2)]

    def test_many_threads(self) -> None:
        requests = RequestMetrics()
        reading = threading.Event()

        def work() -> None:
            for _ in range(500):
                requests.serve("RunPodSandbox", None, Context(), lambda *_: None)  # type: ignore[arg-type]

        def look() -> None:
            while not reading.is_set():
                for figures in requests.figures().values():
                    assert max(figures.durations.values()) == sum(figures.outcomes.values())

        threads = [threading.Thread(target=work) for _ in range(4)]
        reader = threading.Thread(target=look)
        for thread in (reader, *threads):
            thread.start()
        for thread in threads:
            thread.join(LONG)
        reading.set()
        reader.join(LONG)
        assert requests.figures()["RunPodSandbox"].outcomes == {"ok": 2000}
        assert requests.running() == []

    def test_a_request_runs_until_it_is_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        counting, go_on = threading.Event(), threading.Event()
        requests = RequestMetrics()
        add = requests._answers.add

        def add_later(outcome: str, now: float) -> None:
            counting.set()
            assert go_on.wait(LONG)
            add(outcome, now)

        monkeypatch.setattr(requests._answers, "add", add_later)
        served = on_thread(
            lambda: requests.serve("RunPodSandbox", None, Context(), lambda *_: None)  # type: ignore[arg-type]
        )
        assert counting.wait(LONG)
        assert [running.event for running in requests.running()] == ["RunPodSandbox"]
        go_on.set()
        served()
        assert requests.running() == []
        assert requests.answers().total == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_has_nothing_running(self) -> None:
        requests = RequestMetrics()

        def behaviour(request: Any, context: Any) -> int:
            with requests._lock:
                child = os.fork()
            if child == 0:
                os._exit(0 if requests.longest() == 0.0 and requests.figures() == {} else 1)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        assert requests.serve("RunPodSandbox", None, Context(), behaviour) == 0  # type: ignore[arg-type]


@pytest.fixture
def node(socket_dir: Path) -> Iterator[Node]:
    with Node(socket_dir) as made:
        yield made


def test_a_real_session(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, release = threading.Event(), threading.Event()

    def slow(pod: Any) -> None:
        inside.set()
        assert release.wait(LONG)

    def reject(request: Any) -> None:
        raise ValueError("not on my node")

    def fail(pod: Any, container: Any) -> None:
        raise OSError("broken")

    requests = kit.RequestMetrics()
    plugin = PluginWith(
        run_pod_sandbox=slow, stop_container=fail, validate_container_adjustment=reject
    )
    say_request_timeout(monkeypatch, 2.0)
    node.start()
    node.connect(node.stub(plugin, interceptors=[requests]))
    with pytest.raises(RequestFailed):
        node.runtime.stop_container(POD, CONTAINER)
    with pytest.raises(ValidationRejected):
        node.runtime.create_container(POD, CONTAINER)
    node.runtime.run_pod_sandbox(POD)  # the stub gives a late answer
    assert inside.wait(LONG)
    assert [running.event for running in requests.running()] == ["RunPodSandbox"]
    assert requests.longest() > 0.0
    release.set()
    eventually(lambda: not requests.running())
    eventually(lambda: requests.figures()["RunPodSandbox"].outcomes == {"late": 1})
    found = {event: figures.outcomes for event, figures in requests.figures().items()}
    assert found["Synchronize"] == {"ok": 1}
    assert found["StopContainer"] == {"error": 1}
    assert found["ValidateContainerAdjustment"] == {"rejected": 1}


def test_the_clock_is_real() -> None:
    requests = RequestMetrics()
    before = time.time()
    requests.serve("Configure", None, Context(), lambda *_: None)  # type: ignore[arg-type]
    (slow,) = requests.slowest()
    assert before - 1 < slow.at < time.time() + 1
    assert 0 <= slow.seconds < LONG
