"""Several plugin objects as one: :func:`chain`."""

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
    """One plugin that has the handlers of all ``plugins``, for a Stub or another chain.

    Each event goes to every plugin that has the handler, in the order given here, on the same thread and with
    the same message objects: what one changes in them, those after it see. What they answer is put together:

    - Updates and evictions of containers are concatenated. Two updates of one container become one; in an answer
      to an event they must not differ in a setting.
    - Only one may adjust a container that is being created: nothing is merged, see ConflictError below.
    - The events that they choose in ``configure`` are united. A plugin that has chosen is called for no
      others; one that has not gets all that it has handlers for and that the runtime has. So an observer adds
      its events to those of a plugin, and neither has to know of the other.

    What :func:`nri_sync.kit.main` gives to a plugin, each of them gets: the attributes ``stub`` and ``config``,
    and the calls of methods such as ``on_connected``, in order. All are called, whatever one of them raises: the
    first error is raised then, others are logged.

    What a handler raises fails the request, as it would without the chain, and the plugins after it are not
    called: first comes what must see everything. Handlers are looked up here, once. As with a single plugin,
    several threads may call them at once.

    Raises:
        PluginError: no plugins are given, or one that a Stub would refuse, too.

    Its handlers raise what those of the plugins do, and:
        ConflictError: two plugins have adjusted the same container; it names both.
        TypeError, ValueError: a handler has returned what it must not; it names the plugin.
    """
    return Chain(plugins)


class Chain:
    """What :func:`chain` returns: a plugin object with the handlers of its plugins."""

    def __init__(self, plugins: Sequence[object]) -> None:
        if not plugins:
            raise PluginError("a chain needs at least one plugin")
        #: The plugins, in the order they are called in.
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
                with contextlib.suppress(AttributeError):  # one that has no room for it needs none
                    setattr(plugin, name, value)

    def _configure(self, config: str, runtime: str, version: str) -> EventMask:
        """Have all choose their events. Returns the union."""
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
        #: Those it wants to be called for; replaced by each ``configure``. Plain, as bits are tested often.
        self.events = int(self.handled)
        self._position = position
        self._plugin = plugin

    def configure(self, config: str, runtime: str, version: str) -> EventMask:
        """The events that the plugin chooses; if it leaves that open, those it has handlers for."""
        method = self.handlers.get("configure")
        result = None if method is None else method(config, runtime, version)
        events: EventMask = self._checked(asked_events, result, self.handled)
        return events

    def call(self, handler: Handler, arguments: Sequence[Any]) -> Any:
        """The plugin's response, None if that is empty, or it has not chosen the event."""
        if handler.event and not self.events & (1 << (handler.event - 1)):
            return None
        return self._checked(handler.reply, self.handlers[handler.name](*arguments))

    def _checked(self, check: Callable[..., Any], *arguments: Any) -> Any:
        """What ``check`` returns; what it raises tells which plugin it is about."""
        try:
            return check(*arguments)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{self}: {error}") from None

    def __str__(self) -> str:
        return f"{_name(self._plugin)}, plugin {self._position} of the chain"


def _united(handler: Handler, links: Sequence[_Link]) -> Callable[..., Any]:
    """The handler that calls those of all ``links``."""

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
                        f"{link}; only one in a chain may, others need a stub and an index of their own",
                        plugin=str(link),
                    )
                adjusted_by = link
            if united is None:
                united = type(response)()
            united.MergeFrom(response)
        return united

    return call


def _each(methods: Sequence[Callable[..., object]]) -> Callable[..., None]:
    """What calls them all, and raises the first error after that."""

    def call(*arguments: Any) -> None:
        first: Exception | None = None
        for method in methods:
            try:
                method(*arguments)
            except Exception as error:
                if first is None:
                    first = error
                elif isinstance(error, Reject):
                    logger.warning("one more plugin of the chain refused: %s", error)
                else:
                    logger.exception("one more plugin of the chain failed")
        if first is not None:
            raise first

    return call


def _name(plugin: object) -> str:
    if isinstance(plugin, Chain):
        return repr(plugin)
    return plugin.__name__ if isinstance(plugin, ModuleType) else type(plugin).__name__
