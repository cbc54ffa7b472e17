"""The handlers that a plugin may have: one table of events, methods, arguments and replies."""

from __future__ import annotations

import operator
import re
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, NamedTuple

from nri_sync.api import Adjustment, EventMask, Update, nri_pb2, pretty_name
from nri_sync.api.plugin import Plugin
from nri_sync.api.repeats import deduplicated, deduplicated_updates
from nri_sync.errors import PluginError

if TYPE_CHECKING:
    import inspect

__all__ = ["BY_EVENT", "HANDLERS", "Handler", "asked_events", "find_handlers"]


def _nothing(result: Any) -> Any:
    """The reply of a handler without a result: all its response messages are empty."""
    if result is not None:
        raise TypeError(f"the handler returned {type(result).__name__}, but nothing is expected")


def _updates(response_type: Any, *, deduplicate: bool = True) -> Callable[[Any], Any]:
    """The reply of a handler that returns updates.

    ``deduplicate`` merges several updates of one container, because the runtime treats them as a conflict.
    """

    def reply(result: Any) -> Any:
        if isinstance(result, response_type):
            return _deduplicated(result) if deduplicate else result
        updates = _checked_updates(result)
        return response_type(update=deduplicated_updates(updates) if deduplicate else updates)

    return reply


def _deduplicated(response: Any) -> Any:
    """A response that the plugin has made, or a copy with one update for each container."""
    updates = deduplicated_updates(response.update)
    if len(updates) == len(response.update):
        return response
    copy = type(response)()
    copy.CopyFrom(response)
    del copy.update[:]
    copy.update.extend(updates)
    return copy


def _checked_updates(result: Any) -> list[nri_pb2.ContainerUpdate]:
    if result is None:
        return []
    if isinstance(result, (nri_pb2.ContainerUpdate, Update)) or not isinstance(result, Iterable):
        raise TypeError(
            f"the handler returned {type(result).__name__}, but a list of ContainerUpdate is expected"
        )
    updates = [item.message if isinstance(item, Update) else item for item in result]
    for update in updates:
        if not isinstance(update, nri_pb2.ContainerUpdate):
            raise TypeError(
                f"the updates hold {type(update).__name__}, but ContainerUpdate is expected"
            )
    return updates


def _create(result: Any) -> nri_pb2.CreateContainerResponse:
    # Compares types: no class can be derived from a message, and isinstance() is slow with the metaclass of
    # messages.
    if type(result) is nri_pb2.CreateContainerResponse:
        return _deduplicated_create(_deduplicated(result))
    adjustment, updates = (
        result if isinstance(result, tuple) and len(result) == 2 else (result, None)
    )
    if isinstance(adjustment, Adjustment):
        adjustment = adjustment.message
    if adjustment is not None and type(adjustment) is not nri_pb2.ContainerAdjustment:
        raise TypeError(
            f"create_container returned {type(result).__name__}, but a ContainerAdjustment, a pair of it "
            "and a list of ContainerUpdate, a CreateContainerResponse or None is expected"
        )
    response = nri_pb2.CreateContainerResponse()
    if updates is not None:
        response.update.extend(deduplicated_updates(_checked_updates(updates)))
    if adjustment is not None:
        # The constructor would serialize and parse an argument.
        response.adjust.CopyFrom(deduplicated(adjustment))
    return response


def _deduplicated_create(
    response: nri_pb2.CreateContainerResponse,
) -> nri_pb2.CreateContainerResponse:
    adjustment = deduplicated(response.adjust)
    if adjustment is response.adjust:
        return response
    copy = nri_pb2.CreateContainerResponse()
    copy.CopyFrom(response)
    copy.adjust.CopyFrom(adjustment)
    return copy


class Handler(NamedTuple):
    """A method that a plugin may have, and the RPC that it serves."""

    name: str
    #: The method of the Plugin service.
    rpc: str
    #: The number of its event; 0 for a method without a subscription.
    event: int
    #: The names of the arguments, and the fields of the request that hold them.
    parameters: tuple[str, ...]
    fields: tuple[str, ...]
    #: Turns the return value of the handler into the response. ``None`` means an empty response.
    reply: Callable[[Any], Any]
    #: Whether runtimes before NRI v0.12 send the event as a StateChange.
    by_state_change: bool

    @property
    def signature(self) -> str:
        return f"{self.name}({', '.join(self.parameters)})"

    def arguments(self) -> Callable[[Any], Sequence[Any]]:
        """A function that takes the arguments from a request."""
        if len(self.fields) > 1:
            getter: Callable[[Any], Sequence[Any]] = operator.attrgetter(*self.fields)
            return getter  # faster than the list below
        return lambda request: [getattr(request, field) for field in self.fields]


_POD = {"pod": "pod"}
_CONTAINER = {"pod": "pod", "container": "container"}


def _event(
    number: int,
    arguments: Mapping[str, str],
    reply: Callable[[Any], Any] = _nothing,
    *,
    own: bool = False,
) -> Handler:
    """The handler of an event. ``own``: in all releases that know the event, it has its own method."""
    rpc = pretty_name(number)
    name = nri_pb2.Event.Name(number).lower()
    return Handler(name, rpc, number, tuple(arguments), tuple(arguments.values()), reply, not own)


HANDLERS: tuple[Handler, ...] = (
    Handler(
        "configure",
        "Configure",
        0,
        ("config", "runtime", "version"),
        ("config", "runtime_name", "runtime_version"),
        lambda result: result,
        False,
    ),
    Handler(
        "synchronize",
        "Synchronize",
        0,
        ("pods", "containers"),
        ("pods", "containers"),
        # The runtime applies these updates one after the other, so several of one container are allowed.
        _updates(nri_pb2.SynchronizeResponse, deduplicate=False),
        False,
    ),
    Handler("shutdown", "Shutdown", 0, (), (), _nothing, False),
    _event(nri_pb2.RUN_POD_SANDBOX, _POD),
    _event(
        nri_pb2.UPDATE_POD_SANDBOX,
        {"pod": "pod", "overhead": "overhead_linux_resources", "resources": "linux_resources"},
        own=True,
    ),
    _event(nri_pb2.POST_UPDATE_POD_SANDBOX, _POD),
    _event(nri_pb2.STOP_POD_SANDBOX, _POD),
    _event(nri_pb2.REMOVE_POD_SANDBOX, _POD),
    _event(nri_pb2.CREATE_CONTAINER, _CONTAINER, _create, own=True),
    _event(nri_pb2.POST_CREATE_CONTAINER, _CONTAINER),
    _event(nri_pb2.START_CONTAINER, _CONTAINER),
    _event(nri_pb2.POST_START_CONTAINER, _CONTAINER),
    _event(
        nri_pb2.UPDATE_CONTAINER,
        {**_CONTAINER, "resources": "linux_resources"},
        _updates(nri_pb2.UpdateContainerResponse),
        own=True,
    ),
    _event(nri_pb2.POST_UPDATE_CONTAINER, _CONTAINER),
    _event(nri_pb2.STOP_CONTAINER, _CONTAINER, _updates(nri_pb2.StopContainerResponse), own=True),
    _event(nri_pb2.REMOVE_CONTAINER, _CONTAINER),
    Handler(
        "validate_container_adjustment",
        "ValidateContainerAdjustment",
        nri_pb2.VALIDATE_CONTAINER_ADJUSTMENT,
        ("request",),
        (),
        _nothing,
        False,
    ),
)

#: The handlers of the events that may arrive as a StateChange.
BY_EVENT: dict[int, Handler] = {
    handler.event: handler for handler in HANDLERS if handler.by_state_change
}

_BY_NAME = {handler.name: handler for handler in HANDLERS}


def _squeezed(name: str) -> str:
    return name.replace("_", "").lower()


_BY_SQUEEZED_NAME = {_squeezed(handler.name): handler for handler in HANDLERS}


def find_handlers(plugin: object) -> tuple[dict[str, Callable[..., Any]], EventMask]:
    """The handlers of ``plugin`` by name, and the events that they handle.

    Raises:
        PluginError: the plugin has no handlers; a handler cannot be called with its arguments; or the name of a
            method looks like a misspelt handler.
    """
    found: dict[str, Callable[..., Any]] = {}
    mask = EventMask(0)
    for name in dir(plugin):
        handler = _BY_NAME.get(name)
        if handler is None:
            _check_spelling(plugin, name)
            continue
        method = _method(plugin, name)
        if method is None:
            continue
        _check_arguments(plugin, handler, method)
        found[name] = method
        if handler.event:
            mask |= EventMask.of(handler.event)
    if not found:
        names = ", ".join(handler.name for handler in HANDLERS)
        raise PluginError(f"{_describe(plugin)} has no handlers; it needs at least one of: {names}")
    return found, mask


def _method(plugin: object, name: str) -> Any:
    """The attribute of the plugin, except a method of :class:`Plugin`, which does nothing; None without one."""
    method = getattr(plugin, name)
    inherited = getattr(Plugin, name)
    if inherited not in (method, getattr(method, "__func__", None)):
        return method
    # In ``class Mine(Plugin, Mixin)`` the class Plugin hides the methods of Mixin.
    return getattr(super(Plugin, plugin), name, None) if isinstance(plugin, Plugin) else None


def asked_events(result: Any, handled: EventMask) -> EventMask:
    """The events that a configure handler subscribes to with its return value ``result``.

    None and an empty set subscribe to all events with a handler, as optional events.

    Raises:
        TypeError: ``result`` has another type.
        ValueError: the plugin has no handler for one of the events.
    """
    if result is None:
        return handled.optional()
    if not isinstance(result, int):
        raise TypeError(
            f"configure returned {type(result).__name__}, but an EventMask or None is expected"
        )
    events = EventMask(result)
    if events not in handled:
        without = events & ~handled
        raise ValueError(
            f"configure subscribes to events that have no handler: {without} ({int(without):#x})"
        )
    return events or handled.optional()


def _describe(plugin: object) -> str:
    if plugin is None:
        return "the plugin None"
    if isinstance(plugin, type):
        name = plugin.__qualname__
        return f"the plugin class {name} (is an instance meant, {name}()?)"
    return f"the plugin {type(plugin).__qualname__}"


def _check_arguments(plugin: object, handler: Handler, method: Any) -> None:
    if not callable(method):
        raise PluginError(
            f"{_describe(plugin)}: {handler.name} is not a method; expected {handler.signature}"
        )
    if _is_plain(handler, method):
        return
    import inspect  # here, because it takes 1 MB that a plugin with plain handlers does not need

    if inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(
        getattr(method, "__call__", None)  # noqa: B004  # of an object that can be called
    ):
        raise PluginError(
            f"{_describe(plugin)}: {handler.name} is async; handlers are ordinary functions"
        )
    try:
        signature = inspect.signature(method)
    except (TypeError, ValueError):
        return  # a builtin has no signature
    try:
        signature.bind(*handler.parameters)
    except TypeError as error:
        raise PluginError(
            f"{_describe(plugin)}: {handler.name}{signature} cannot be called as {handler.signature}: {error}"
        ) from None
    _check_order(plugin, handler, signature)


def _is_plain(handler: Handler, method: Any) -> bool:
    """Whether it is a Python function or method with exactly the names of the parameters, without annotations.

    A function with attributes does not count as plain either.
    """
    function = method.__func__ if isinstance(method, types.MethodType) else method
    # A decorator leaves an attribute, such as __wrapped__.
    if not isinstance(function, types.FunctionType) or vars(function):
        return False
    code = function.__code__
    names = code.co_varnames[function is not method : code.co_argcount]
    return (
        names == tuple(handler.parameters)
        and not (code.co_kwonlyargcount or code.co_flags & _NOT_PLAIN)
        # A function with __annotate__ (Python 3.14) has annotations. Evaluating them here could raise.
        and not (getattr(function, "__annotate__", None) or function.__annotations__)
    )


# Flags of a function's code (inspect.CO_...): *args, **kwargs, a generator, or a coroutine of any kind.
_NOT_PLAIN = 0x04 | 0x08 | 0x20 | 0x80 | 0x100 | 0x200


# Other names of parameters, with the name of the argument; then the types of arguments.
_SYNONYMS = {
    "sandbox": "pod",
    "podsandbox": "pod",
    "ctr": "container",
    "sandboxes": "pods",
    "podsandboxes": "pods",
    "ctrs": "containers",
}
_TYPES = {
    "pod": "PodSandbox",
    "container": "Container",
    "pods": "PodSandbox",
    "containers": "Container",
}


def _check_order(plugin: object, handler: Handler, signature: inspect.Signature) -> None:
    """Refuse parameters whose name or annotation is that of another argument."""
    positional = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    for argument, parameter in zip(handler.parameters, positional):
        name = _squeezed(parameter.name)
        named = _SYNONYMS.get(name, name)
        others = [other for other in handler.parameters if other != argument]
        typed = set(re.findall(r"\w+", _text_of(parameter.annotation))) & set(_TYPES.values())
        of_another = typed and typed <= {_TYPES.get(other) for other in others} - {
            _TYPES.get(argument)
        }
        if named in others or of_another:
            raise PluginError(
                f"{_describe(plugin)}: {handler.name}{signature} gets its arguments in another order, "
                f"by position: {handler.signature}; its parameter {parameter.name!r} would get the {argument}"
            )


def _text_of(annotation: Any) -> str:
    import inspect

    if annotation is inspect.Parameter.empty:
        return ""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _is_data(plugin: object, name: str) -> bool:
    """Whether an attribute is neither callable nor a descriptor. Runs no code of the plugin."""
    classes = [*(plugin.__mro__ if isinstance(plugin, type) else ()), *type(plugin).__mro__]
    for place in (plugin, *classes):
        try:
            found = object.__getattribute__(place, "__dict__")[name]
        except (AttributeError, KeyError):
            continue
        return not callable(found) and not hasattr(found, "__get__")
    return True


def _check_spelling(plugin: object, name: str) -> None:
    """Refuse a method with a misspelt name of a handler: the runtime would never call it."""
    if name.startswith("_"):
        return
    if _is_data(plugin, name):
        return
    likely: Handler | None = _BY_SQUEEZED_NAME.get(_squeezed(name))
    if likely is None:
        import difflib  # here, because it takes 0.2 MB that most plugins do not need

        close = difflib.get_close_matches(name, _BY_NAME, 1, cutoff=0.88)
        likely = _BY_NAME[close[0]] if close else None
    if likely is not None and callable(getattr(plugin, name, None)):
        raise PluginError(
            f"{_describe(plugin)}: {name} is not a handler; did you mean {likely.signature}? "
            "(a method for another purpose needs another name, or a leading underscore)"
        )
