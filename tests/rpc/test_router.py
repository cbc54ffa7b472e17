"""Finding the handler of a method."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nri_sync.rpc.router import MethodHandler, RequestsBroken, Router
from nri_sync.rpc.status import Status
from tests.forked import WARNS, in_child
from tests.net.rig import LONG

__all__: list[str] = []


def echo(request: Any, context: Any) -> Any:
    return request


ECHO = MethodHandler(echo)


def test_registered_methods() -> None:
    router = Router()
    router.add_registered_method_handlers("a.B", {"C": ECHO})
    assert router.find("/a.B/C", ()) is ECHO
    assert router.find("/a.B/D", ()) is None
    assert router.find("/a.C/C", ()) is None
    assert router.has_service("a.B")
    assert not router.has_service("a.C")


def test_services_that_are_given_can_be_added_to() -> None:
    given = {"a.B": {"C": ECHO}}
    router = Router(given)
    assert router.find("/a.B/C", ()) is ECHO
    assert router.has_service("a.B")
    router.add_registered_method_handlers("a.C", {"D": ECHO})
    assert router.find("/a.C/D", ()) is ECHO
    assert given == {"a.B": {"C": ECHO}}


def test_a_service_that_is_added_again_gets_the_methods_of_both() -> None:
    router = Router()
    router.add_registered_method_handlers("a.B", {"C": ECHO, "D": MethodHandler()})
    router.add_registered_method_handlers("a.B", {"D": ECHO})
    assert router.find("/a.B/C", ()) is router.find("/a.B/D", ()) is ECHO


def test_handlers_that_several_threads_add_are_all_there() -> None:
    router = Router()
    barrier = threading.Barrier(4)

    def add(first: int) -> None:
        barrier.wait(LONG)
        for number in range(first, 400, 4):
            router.add_registered_method_handlers(f"a.S{number}", {"C": ECHO})
            assert router.find(f"/a.S{number}/C", ()) is ECHO

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(add, range(4)))
    for number in range(400):
        assert router.find(f"/a.S{number}/C", ()) is ECHO
        assert router.has_service(f"a.S{number}")


def test_a_broken_stream_has_the_status_of_its_call() -> None:
    broken = RequestsBroken(Status(13, "why"))
    assert (str(broken), broken.status) == ("why", Status(13, "why"))
    assert Router.requests_broken is RequestsBroken


@WARNS
def test_a_fork_while_another_thread_adds_methods() -> None:
    router = Router()

    def child() -> None:
        router.add_registered_method_handlers("a.B", {"C": ECHO})
        assert router.find("/a.B/C", ()) is ECHO

    with router._lock:
        in_child(child)
