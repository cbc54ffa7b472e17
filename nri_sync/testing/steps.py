"""What a :class:`ScriptedRuntime` can do to a plugin: the words of its scripts.

Most are for one connection, and are listed in the order in which they are done; :func:`down` stands between
connections. A connection is closed at the end of its list. Where the plugin closes it first, the rest of its
list is left out. Any function that takes a :class:`RemotePlugin` is a step, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Callable

import grpc

from nri_sync import api
from nri_sync.api.nri_pb2 import Container, PodSandbox
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
    "synchronize",
    "welcome",
]


@dataclass(frozen=True, repr=False)
class Step:
    """A step with a name."""

    text: str
    do: Callable[[RemotePlugin], object]

    def __call__(self, plugin: RemotePlugin) -> None:
        self.do(plugin)

    def __repr__(self) -> str:
        return self.text


#: What is done on one connection.
Session = Sequence[Callable[[RemotePlugin], object]]


@dataclass(frozen=True)
class Down:
    """The runtime does not listen."""

    seconds: float = 0.0
    until: str = ""


# What is done in order


def register(*, refuse: str = "", answered: bool = True) -> Step:
    """Wait for RegisterPlugin, and accept it; or ``refuse`` it with that text, or leave it unanswered."""

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
    """Send Configure; wait for the answer, unless ``answered`` is False. Timeouts are in seconds."""
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
    """Send Synchronize. With ``more`` it is a part, and others are to follow."""
    return event("Synchronize", answered=answered, pods=pods, containers=containers, more=more)


def welcome(pods: Iterable[PodSandbox] = (), containers: Iterable[Container] = ()) -> Step:
    """All that a plugin needs to be served: :func:`register`, :func:`configure`, :func:`synchronize`."""
    steps = (register(), configure(), synchronize(pods, containers))

    def do(plugin: RemotePlugin) -> None:
        for step in steps:
            step(plugin)

    return Step("welcome", do)


def event(rpc: str, *, times: int = 1, answered: bool = True, **fields: Any) -> Step:
    """Send a request, ``event("RunPodSandbox", pod=make_pod())``, and wait for the answer, so many times.

    With ``answered=False`` it does not wait. Answers are in :attr:`ScriptedRuntime.answers`; errors among them
    are no error of the script. Raises ValueError for an RPC that plugins do not have, or another field.
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
    except grpc.RpcError as error:
        plugin.runtime.note(f"the plugin has answered with an error: {error}")


def serve() -> Step:
    """Answer requests for updates, until the plugin leaves or the runtime is closed."""
    return Step("serve", lambda plugin: plugin.serve())


# What is not


def cut() -> Step:
    """Close the connection."""
    return Step("cut", lambda plugin: plugin.close())


def silence() -> Step:
    """Answer nothing, until the plugin leaves or the runtime is closed."""
    return Step("silence", lambda plugin: plugin.drain())


def fragment(rpc: str, **fields: Any) -> Step:
    """Send the first half of a request."""
    encoded_request(1, rpc, **fields)

    def do(plugin: RemotePlugin) -> None:
        # The stream does not matter, as nobody sees all of it.
        data = encoded_request(1, rpc, **fields)
        plugin.send(data[: len(data) // 2])

    return Step(f"fragment of {rpc}", do)


def send(data: bytes) -> Step:
    """Send bytes, whatever they are."""
    return Step("send", lambda plugin: plugin.send(data))


def garbage() -> Step:
    """Send what is no frame: the answer of a web server."""
    return Step("garbage", send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"))


def oversized() -> Step:
    """Send a request that is larger than ttRPC allows, and wait for the error that plugins answer with."""

    def do(plugin: RemotePlugin) -> None:
        _response(plugin, plugin.oversized_request(), "RunPodSandbox")

    return Step("oversized", do)


# What waits


def pause(seconds: float) -> Step:
    """Do nothing for a while: what comes next is slow."""
    return Step(f"pause of {seconds:g} s", lambda plugin: plugin.runtime.pause(seconds))


def mark(name: str) -> Step:
    """Have :meth:`ScriptedRuntime.wait` with that name return."""
    return Step(f"mark {name!r}", lambda plugin: plugin.runtime.mark(name))


def hold(name: str) -> Step:
    """As :func:`mark`; then wait for :meth:`ScriptedRuntime.release` with that name."""
    return Step(f"hold {name!r}", lambda plugin: plugin.runtime.hold(name))


def down(seconds: float = 0.0, *, until: str = "") -> Down:
    """Between connections: the socket is gone for a while, as while a runtime restarts.

    With ``until`` it is until :meth:`ScriptedRuntime.release` with that name.
    """
    return Down(seconds, until)


def hostile_sessions() -> dict[str, list[Step]]:
    """Ways for a connection to end badly, by what happens, to try all of them on a plugin.

    Each ends by itself; those with "silent" when the plugin loses patience: give it a short
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
        "cut when synchronized": [welcome([pod], [one]), cut()],
        "cut after three events": [welcome(), event("RunPodSandbox", times=3, pod=new), cut()],
        "cut during an event": [welcome(), event("RunPodSandbox", answered=False, pod=new), cut()],
        "cut in mid-message": [welcome(), fragment("RunPodSandbox", pod=new), cut()],
        "garbage": [welcome(), garbage(), silence()],
        "oversized message": [welcome(), oversized(), event("RunPodSandbox", pod=new), cut()],
    }
