"""The steps of a :class:`ScriptedRuntime`: its actions towards a plugin.

Most steps are for one connection. A list of steps is executed in order; :func:`down` stands between connections.
At the end of its list, the runtime closes the connection. If the plugin closes the connection first, the runtime
skips the rest of the list. Any function that takes a :class:`RemotePlugin` is also a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

from nri_sync import api
from nri_sync.api.nri_pb2 import Container, PodSandbox
from nri_sync.errors import CallFailed
from nri_sync.testing.builders import make_container, make_pod
from nri_sync.testing.remote import RemotePlugin, encoded_request

__all__ = [
    "Down",
    "Session",
    "Step",
    "configure",
    "cut",
    "down",
    "event",
    "fragment",
    "garbage",
    "hold",
    "hostile_sessions",
    "mark",
    "oversized",
    "pause",
    "register",
    "send",
    "serve",
    "silence",
    "start_session",
    "synchronize",
]


@dataclass(frozen=True, repr=False)
class Step:
    """A step with a name, for the log."""

    text: str
    do: Callable[[RemotePlugin], object]

    def __call__(self, plugin: RemotePlugin) -> None:
        self.do(plugin)

    def __repr__(self) -> str:
        return self.text


#: The steps of one connection.
Session = Sequence[Callable[[RemotePlugin], object]]


@dataclass(frozen=True)
class Down:
    """A time in which the runtime does not listen."""

    seconds: float = 0.0
    until: str = ""


# Steps that follow the protocol


def register(*, refuse: str = "", answered: bool = True) -> Step:
    """Wait for RegisterPlugin, and accept it; or ``refuse`` it with that text, or do not answer it."""

    def do(plugin: RemotePlugin) -> None:
        stream = plugin.registration()
        if answered:
            plugin.answer(stream, error=refuse)

    return Step("register", do)


def configure(
    *,
    answered: bool = True,
    config: str = "",
    name: str = "containerd",
    version: str = "v2.4.2",
    nri_version: str = api.NRI_VERSION,
    registration_timeout: float = api.DEFAULT_REGISTRATION_TIMEOUT,
    request_timeout: float = api.DEFAULT_REQUEST_TIMEOUT,
) -> Step:
    """Send Configure, and wait for the answer, unless ``answered`` is False. Timeouts are in seconds."""
    return event(
        "Configure",
        answered=answered,
        config=config,
        runtime_name=name,
        runtime_version=version,
        registration_timeout=round(registration_timeout * 1000),
        request_timeout=round(request_timeout * 1000),
        NRI_version=nri_version,
    )


def synchronize(
    pods: Iterable[PodSandbox] = (),
    containers: Iterable[Container] = (),
    *,
    more: bool = False,
    answered: bool = True,
) -> Step:
    """Send Synchronize. With ``more`` it is one part of the state, and further parts have to follow."""
    return event("Synchronize", answered=answered, pods=pods, containers=containers, more=more)


def start_session(pods: Iterable[PodSandbox] = (), containers: Iterable[Container] = ()) -> Step:
    """Make the plugin ready for events: :func:`register`, :func:`configure`, :func:`synchronize`."""
    steps = (register(), configure(), synchronize(pods, containers))

    def do(plugin: RemotePlugin) -> None:
        for step in steps:
            step(plugin)

    return Step("start_session", do)


def event(rpc: str, *, times: int = 1, answered: bool = True, **fields: Any) -> Step:
    """Send a request, ``event("RunPodSandbox", pod=make_pod())``, and wait for the answer; ``times`` times.

    With ``answered=False`` the step does not wait. :attr:`ScriptedRuntime.answers` has the answers; an error as
    the answer does not fail the script. Raises ValueError for an RPC that plugins do not have, and for an unknown
    field.
    """
    encoded_request(1, rpc, **fields)

    def do(plugin: RemotePlugin) -> None:
        for _ in range(times):
            stream = plugin.request(rpc, **fields)
            if answered:
                _response(plugin, stream, rpc)

    return Step(rpc, do)


def _response(plugin: RemotePlugin, stream: int, rpc: str) -> None:
    try:
        plugin.response(stream, rpc)
    except CallFailed as error:
        plugin.runtime.note(f"the plugin has answered with an error: {error}")


def serve() -> Step:
    """Answer requests for updates, until the plugin disconnects or the runtime is closed."""
    return Step("serve", lambda plugin: plugin.serve())


# Steps that break the protocol


def cut() -> Step:
    """Close the connection."""
    return Step("cut", lambda plugin: plugin.close())


def silence() -> Step:
    """Answer no requests, until the plugin disconnects or the runtime is closed."""
    return Step("silence", lambda plugin: plugin.drain())


def fragment(rpc: str, **fields: Any) -> Step:
    """Send the first half of a request."""
    encoded_request(1, rpc, **fields)

    def do(plugin: RemotePlugin) -> None:
        # The number of the stream does not matter, because the request stays incomplete.
        data = encoded_request(1, rpc, **fields)
        plugin.send(data[: len(data) // 2])

    return Step(f"fragment of {rpc}", do)


def send(data: bytes) -> Step:
    """Send arbitrary bytes."""
    return Step("send", lambda plugin: plugin.send(data))


def garbage() -> Step:
    """Send bytes that are no frame: the answer of a web server."""
    return Step("garbage", send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))


def oversized() -> Step:
    """Send a request that is larger than ttRPC allows, and wait for the plugin's error response."""

    def do(plugin: RemotePlugin) -> None:
        _response(plugin, plugin.oversized_request(), "RunPodSandbox")

    return Step("oversized", do)


# Steps that wait


def pause(seconds: float) -> Step:
    """Wait for ``seconds``, so that the next step is late."""
    return Step(f"pause of {seconds:g} s", lambda plugin: plugin.runtime.pause(seconds))


def mark(name: str) -> Step:
    """Let :meth:`ScriptedRuntime.wait` with that name return."""
    return Step(f"mark {name!r}", lambda plugin: plugin.runtime.mark(name))


def hold(name: str) -> Step:
    """Like :func:`mark`; then wait for :meth:`ScriptedRuntime.release` with that name."""
    return Step(f"hold {name!r}", lambda plugin: plugin.runtime.hold(name))


def down(seconds: float = 0.0, *, until: str = "") -> Down:
    """Between connections: remove the socket for a while, like a runtime that restarts.

    With ``until``, the socket is absent until :meth:`ScriptedRuntime.release` with that name.
    """
    return Down(seconds, until)


def hostile_sessions() -> dict[str, list[Step]]:
    """Sessions that end badly, by a description of the end, to test a plugin with each of them.

    Each ends without help. Those with "silent" end when the plugin's timeout has passed: give the plugin a short
    ``registration_timeout``.
    """
    pod = make_pod()
    ready = [register(), configure()]
    one, other = make_container(pod, "one"), make_container(pod, "other")
    new = make_pod("new")
    return {
        "cut at once": [cut()],
        "silent": [silence()],
        "garbage at once": [garbage(), silence()],
        "cut during the registration": [register(answered=False), cut()],
        "refused": [register(refuse="no plugins today"), silence()],
        "cut after the registration": [register(), cut()],
        "silent after the registration": [register(), silence()],
        "cut while being configured": [register(), configure(answered=False), cut()],
        "cut when configured": [*ready, cut()],
        "cut between parts of the state": [*ready, synchronize([pod], [one], more=True), cut()],
        "cut while being synchronized": [
            *ready,
            synchronize([pod], [one, other], answered=False),
            cut(),
        ],
        "cut when synchronized": [start_session([pod], [one]), cut()],
        "cut after three events": [
            start_session(),
            event("RunPodSandbox", times=3, pod=new),
            cut(),
        ],
        "cut during an event": [
            start_session(),
            event("RunPodSandbox", answered=False, pod=new),
            cut(),
        ],
        "cut in mid-message": [start_session(), fragment("RunPodSandbox", pod=new), cut()],
        "garbage": [start_session(), garbage(), silence()],
        "oversized message": [start_session(), oversized(), event("RunPodSandbox", pod=new), cut()],
    }
