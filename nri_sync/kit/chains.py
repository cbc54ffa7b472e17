"""Combines several plugin objects into one: :func:`chain`."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable

from nri_sync.api import EventMask
from nri_sync.api.handlers import HANDLERS, Handler, asked_events, find_handlers
from nri_sync.errors import ConflictError, PluginError, Reject
from nri_sync.logger import get_logger

__all__ = ["Chain", "chain"]

logger = get_logger("nri_sync.kit.chains")


def chain(*plugins: object) -> Chain:
    """Return one plugin with the handlers of all ``plugins``, for a Stub or another chain.

    Each event goes to every plugin with its handler, in the given order, on the same thread and with the same
    message objects: a plugin sees the changes that earlier plugins made in them. The chain combines the responses:

    - It concatenates updates and evictions of containers. Two updates of one container become one. In the response
      to an event they must not set a field to different values.
    - Only one plugin may adjust a container that is being created: the chain does not merge adjustments, see
      ConflictError below.
    - It unites the events that the plugins choose in ``configure``. A plugin that has chosen events is called only
      for these. A plugin that has not chosen is called for all events that it has handlers for, and that the
      runtime has. So an observer adds its events to those of a plugin, and neither needs to know the other.

    :func:`nri_sync.kit.main` treats each plugin of the chain as one plugin: each gets the attributes ``stub`` and
    ``config``, and the calls of methods such as ``on_connected``, in order. All such methods are called, also
    after one of them raises. The first error is raised at the end, and the others are logged.

    An exception of a handler fails the request, as it would without the chain, and the later plugins are not
    called. So put a plugin that must see everything first. The chain looks up the handlers here, once. As with a
    single plugin, several threads may call them at once.

    Raises:
        PluginError: there is no plugin, or one that a Stub would refuse, too.

    The chain's handlers raise the exceptions of the plugins' handlers, and:
        ConflictError: two plugins have adjusted the same container; the error names both.
        TypeError, ValueError: a handler has returned a wrong value; the error names the plugin.
    """
    return Chain(plugins)


class Chain:
    """The result of :func:`chain`: a plugin object with the handlers of its plugins."""

    def __init__(self, plugins: Sequence[object]) -> None:
        if not plugins:
            raise PluginError("a chain needs at least one plugin")
        #: The plugins, in the order of their calls.
        self.plugins = tuple(plugins)
        self._links = [_Link(position, plugin) for position, plugin in enumerate(plugins, 1)]
        for handler in HANDLERS:
            links = [link for link in self._links if handler.name in link.handlers]
            if links:
                united = self._configure if handler.name == "configure" else _united(handler, links)
                setattr(self, handler.name, united)
        for name in dict.fromkeys(name for plugin in plugins for name in dir(plugin)):
            if name.startswith("on_"):
                found = [getattr(plugin, name, None) for plugin in plugins]
                methods = [method for method in found if callable(method)]
                if methods:
                    setattr(self, name, _each(methods))

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name in ("stub", "config"):
            for plugin in self.plugins:
                with contextlib.suppress(
                    AttributeError
                ):  # a plugin with __slots__ and no slot for it
                    setattr(plugin, name, value)

    def _configure(self, config: str, runtime: str, version: str) -> EventMask:
        """Let each plugin choose its events. Returns the union."""
        chosen = [link.configure(config, runtime, version) for link in self._links]
        mask = EventMask(0)
        for link, events in zip(self._links, chosen):
            link.events = int(events)
            mask |= events
        return mask

    def __repr__(self) -> str:
        return f"chain({', '.join(map(_name, self.plugins))})"


class _Link:
    """A plugin in a chain."""

    def __init__(self, position: int, plugin: object) -> None:
        self.handlers, self.handled = find_handlers(plugin)
        #: The events that the plugin is called for, set by each ``configure``. An int, for fast tests of bits.
        self.events = int(self.handled)
        self._position = position
        self._plugin = plugin

    def configure(self, config: str, runtime: str, version: str) -> EventMask:
        """Return the events that the plugin chooses; if it chooses none, those it has handlers for."""
        method = self.handlers.get("configure")
        result = None if method is None else method(config, runtime, version)
        events: EventMask = self._checked(asked_events, result, self.handled)
        return events

    def call(self, handler: Handler, arguments: Sequence[Any]) -> Any:
        """Return the plugin's response; None if it is empty, or if the plugin has not chosen the event."""
        if handler.event and not self.events & (1 << (handler.event - 1)):
            return None
        return self._checked(handler.reply, self.handlers[handler.name](*arguments))

    def _checked(self, check: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of ``check``. Its exceptions get the plugin's name."""
        try:
            return check(*arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self}: {error}") from None

    def __str__(self) -> str:
        return f"{_name(self._plugin)}, plugin {self._position} of the chain"


def _united(handler: Handler, links: Sequence[_Link]) -> Callable[..., Any]:
    """Return the handler that calls those of all ``links``."""

    def call(*arguments: Any) -> Any:
        united = None
        adjusted_by: _Link | None = None
        for link in links:
            response = link.call(handler, arguments)
            if response is None:
                continue
            if handler.name == "create_container" and response.adjust.ByteSize():
                if adjusted_by is not None:
                    raise ConflictError(
                        f"create_container: container {arguments[1].id!r} was adjusted by {adjusted_by} and by "
                        f"{link}; only one plugin of a chain may, so give each other one its own stub and index",
                        plugin=str(link),
                    )
                adjusted_by = link
            if united is None:
                united = type(response)()
            united.MergeFrom(response)
        return united

    return call


def _each(methods: Sequence[Callable[..., object]]) -> Callable[..., None]:
    """Return a function that calls all methods, and then raises the first error."""

    def call(*arguments: Any) -> None:
        first: Exception | None = None
        for method in methods:
            try:
                method(*arguments)
            except Exception as error:
                if first is None:
                    first = error
                elif isinstance(error, Reject):
                    logger.warning("another plugin of the chain refused: %s", error)
                else:
                    logger.exception("another plugin of the chain failed")
        if first is not None:
            raise first

    return call


def _name(plugin: object) -> str:
    if isinstance(plugin, Chain):
        return repr(plugin)
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
