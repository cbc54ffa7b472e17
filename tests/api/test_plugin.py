"""The base class has every handler, with its arguments."""

from __future__ import annotations

import inspect

import nri_sync
from nri_sync.api.handlers import HANDLERS

__all__: list[str] = []


def test_has_exactly_the_handlers() -> None:
    methods = {name for name in vars(nri_sync.Plugin) if not name.startswith("_")}
    assert methods == {handler.name for handler in HANDLERS}


def test_handlers_take_the_arguments_of_the_table() -> None:
    for handler in HANDLERS:
        signature = inspect.signature(getattr(nri_sync.Plugin, handler.name))
        assert tuple(signature.parameters)[1:] == handler.parameters, handler.name


def test_handlers_are_typed_and_documented() -> None:
    for handler in HANDLERS:
        method = getattr(nri_sync.Plugin, handler.name)
        assert set(method.__annotations__) == {*handler.parameters, "return"}, handler.name
        assert inspect.getdoc(method), handler.name


def test_handlers_of_the_base_class_do_nothing() -> None:
    plugin = nri_sync.Plugin()
    for handler in HANDLERS:
        assert getattr(plugin, handler.name)(*handler.parameters) is None
