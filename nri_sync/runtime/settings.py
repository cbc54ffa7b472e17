"""The arguments of a Runtime, and the call of its ``synchronize`` callback."""

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

#: Sends the state to one plugin, or to all plugins of the start; returns the updates that they request.
Sync = Callable[
    [Sequence[nri_pb2.PodSandbox], Sequence[nri_pb2.Container]], list[nri_pb2.ContainerUpdate]
]
#: Calls its argument once, with all existing pods and containers, and applies the updates that the call returns.
Synchronize = Callable[[Sync], object]


@dataclass(frozen=True)
class Settings:
    """The arguments of a Runtime."""

    name: str
    version: str
    nri_version: str
    synchronize: Synchronize
    update_containers: UpdateContainers
    #: None: plugins cannot connect.
    socket_path: str | None
    #: None: no plugin is launched.
    plugin_path: str | None
    plugin_config_path: str
    #: The plugins in this process, by full name.
    plugins: Mapping[str, object]
    registration_timeout: float
    request_timeout: float
    #: The largest number of connections that may wait for their registration.
    max_unregistered: int
    #: Seconds before SIGTERM to a launched plugin, and again from SIGTERM to SIGKILL.
    exit_grace: float

    @functools.cached_property
    def older(self) -> OlderRelease | None:
        """The older release to act as; None for the present release."""
        return OlderRelease.of(self.nri_version)

    def check(self) -> None:
        """Raise ValueError, TypeError or PluginError for an invalid argument."""
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
        """The Configure request for a plugin with the configuration ``config``."""
        return nri_pb2.ConfigureRequest(
            config=config,
            runtime_name=self.name,
            runtime_version=self.version,
            registration_timeout=round(self.registration_timeout * 1000),
            request_timeout=round(self.request_timeout * 1000),
            NRI_version=self.nri_version,
        )

    def run_synchronize(self, sync: Sync, target: str) -> None:
        """Call the runtime's ``synchronize`` with ``sync``, for the plugins that ``target`` names.

        Exceptions of ``synchronize`` come out unchanged.
        """
        calls = [sync]

        def once(
            pods: Sequence[nri_pb2.PodSandbox], containers: Sequence[nri_pb2.Container]
        ) -> list[nri_pb2.ContainerUpdate]:
            try:
                call = calls.pop()
            except IndexError:
                raise LifecycleError(f"{target}: already synchronized; call this once") from None
            return call(pods, containers)

        self.synchronize(once)
        if calls:
            logger.warning("%s: the synchronize callback did not call its argument", target)
