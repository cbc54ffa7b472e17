"""What a runtime was made with, and how it is asked what exists."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable

from nri_sync.api import nri_pb2
from nri_sync.errors import LifecycleError
from nri_sync.logger import get_logger
from nri_sync.runtime.inprocess import InProcess
from nri_sync.runtime.older import OlderRelease
from nri_sync.runtime.peer import UpdateContainers

__all__ = ["Settings", "Sync", "Synchronize"]

logger = get_logger("nri_sync.runtime")

#: Tells one plugin, or all that are there at the start, what exists; returns the updates that they ask for.
Sync = Callable[
    [Sequence[nri_pb2.PodSandbox], Sequence[nri_pb2.Container]], list[nri_pb2.ContainerUpdate]
]
#: Calls what it is given, once, with all pods and containers that exist, and applies what it returns.
Synchronize = Callable[[Sync], object]


@dataclass(frozen=True)
class Settings:
    """The arguments of a Runtime."""

    name: str
    version: str
    nri_version: str
    synchronize: Synchronize
    update_containers: UpdateContainers
    #: None: no plugin may connect.
    socket_path: str | None
    #: None: none is launched.
    plugin_path: str | None
    plugin_config_path: str
    #: Plugins in this process, by full name.
    plugins: Mapping[str, object]
    registration_timeout: float
    request_timeout: float
    #: How many connections there may be that have not registered.
    max_unregistered: int
    #: For a launched plugin to end by itself, and again for SIGTERM.
    exit_grace: float

    @functools.cached_property
    def older(self) -> OlderRelease | None:
        """The release to act as, unless it is the present one."""
        return OlderRelease.of(self.nri_version)

    def check(self) -> None:
        """Raise ValueError, TypeError or PluginError for what cannot be used."""
        for option in ("synchronize", "update_containers"):
            value = getattr(self, option)
            if not callable(value):
                raise TypeError(f"{option} must be callable, not {type(value).__name__}")
        for option in ("registration_timeout", "request_timeout", "exit_grace", "max_unregistered"):
            value = getattr(self, option)
            if not value > 0:
                raise ValueError(f"{option} must be positive, not {value!r}")
        for name, plugin in self.plugins.items():
            InProcess(name, plugin)

    def configuration(self, config: str = "") -> nri_pb2.ConfigureRequest:
        """What a plugin is told at first; ``config`` is its own."""
        return nri_pb2.ConfigureRequest(
            config=config,
            runtime_name=self.name,
            runtime_version=self.version,
            registration_timeout=round(self.registration_timeout * 1000),
            request_timeout=round(self.request_timeout * 1000),
            NRI_version=self.nri_version,
        )

    def run_synchronize(self, sync: Sync, what: str) -> None:
        """Have the runtime call ``sync``, for ``what``. Raises what its callback raises."""
        calls = [sync]

        def once(
            pods: Sequence[nri_pb2.PodSandbox], containers: Sequence[nri_pb2.Container]
        ) -> list[nri_pb2.ContainerUpdate]:
            try:
                call = calls.pop()
            except IndexError:
                raise LifecycleError(f"{what}: already synchronized; call this once") from None
            return call(pods, containers)

        self.synchronize(once)
        if calls:
            logger.warning("%s: the runtime has not told what exists", what)
