"""Typed access to parsed JSON and YAML, with errors that name the place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from nri_sync.kit.fields.quantity import Quantity
from nri_sync.testing.manifests.model import ManifestError
from nri_sync.text import printable

__all__ = ["Fields"]

_T = TypeVar("_T")

_MOST = (1 << 63) - 1
_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a number",
    int: "a whole number",
    list: "a list",
    str: "a text",
    type(None): "null",
}
_LETTERS = {"y": True, "Y": True, "n": False, "N": False}
_QUOTED = 60


class Fields:
    """An object of a document. A missing value, or null, reads as empty, as in Go."""

    def __init__(self, data: object, source: str, path: str = "") -> None:
        """Raises ManifestError if ``data`` is no object with texts as keys."""
        self.source = source
        self.path = path
        if data is None:
            data = {}
        if not isinstance(data, dict):
            self._wrong(path, dict, data)
        if not all(isinstance(key, str) for key in data):
            data = {self._key(key): value for key, value in data.items()}
        self.data: dict[str, Any] = data

    def _key(self, key: object) -> str:
        """A YAML key, converted as by Kubernetes (``convertToJSONableObject`` in sigs.k8s.io/yaml)."""
        if isinstance(key, bool):
            return "true" if key else "false"
        if key is None:
            self.fail("a key is null: write it in quotes")
        return f"{key:g}" if isinstance(key, float) else str(key)

    def fail(self, problem: str, key: str = "") -> NoReturn:
        """Raise a ManifestError about this object, or a key of it."""
        raise ManifestError(self.source, self._path(key) if key else self.path, problem)

    def _path(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def _wrong(self, path: str, wanted: type, found: object) -> NoReturn:
        kind = _NAMES.get(type(found), type(found).__name__)
        shown = f" ({_shortened(found)})" if isinstance(found, (str, int, float, bool)) else ""
        problem = f"must be {_NAMES[wanted]}, not {kind}{shown}"
        if wanted is str and shown:
            problem += ": write it in quotes"
        raise ManifestError(self.source, path, problem)

    def _get(self, key: str, kind: type[_T], missing: _T) -> _T:
        found = self.data.get(key)
        if found is None:
            return missing
        # In Python, a bool is an int.
        if not isinstance(found, kind) or isinstance(found, bool) is not (kind is bool):
            self._wrong(self._path(key), kind, found)
        return found

    def __contains__(self, key: str) -> bool:
        return self.data.get(key) is not None

    def __bool__(self) -> bool:
        return bool(self.data)

    def text(self, key: str, missing: str = "") -> str:
        return self._get(key, str, missing)

    def required(self, key: str, advice: str) -> str:
        """A text that has to be present, and not empty."""
        found = self.text(key)
        if not found:
            self.fail(f"is missing: {advice}", key)
        return found

    def flag(self, key: str, missing: bool = False) -> bool:
        # Kubernetes reads these YAML words as booleans, and this package as texts: see
        # ``kit.config.foreign_yaml``.
        letter = self.data.get(key)
        if isinstance(letter, str) and letter in _LETTERS:
            return _LETTERS[letter]
        return self._get(key, bool, missing)

    def integer(self, key: str, missing: int = 0) -> int:
        found = self.data.get(key)
        # YAML has no integer 08, and JSON prints 8.0 as 8.
        if isinstance(found, float) and found.is_integer() and abs(found) <= _MOST:
            return int(found)
        found = self._get(key, int, missing)
        if not -_MOST <= found <= _MOST:
            self.fail(f"{_shortened(found)} exceeds 64 bits", key)
        return found

    def integers(self, key: str) -> list[int]:
        return [self._item(item, int, key, n) for n, item in enumerate(self._get(key, list, []))]

    def texts(self, key: str) -> list[str]:
        return [self._item(item, str, key, n) for n, item in enumerate(self._get(key, list, []))]

    def _item(self, item: object, kind: type[_T], key: str, number: int) -> _T:
        if not isinstance(item, kind) or (isinstance(item, bool) and kind is not bool):
            self._wrong(f"{self._path(key)}[{number}]", kind, item)
        return item

    def object(self, *keys: str) -> Fields:
        """The object below some keys; empty if there is none."""
        found = self
        for key in keys:
            found = Fields(found.data.get(key), self.source, found._path(key))
        return found

    def objects(self, key: str) -> Iterator[Fields]:
        for number, item in enumerate(self._get(key, list, [])):
            path = f"{self._path(key)}[{number}]"
            if item is None:
                self._wrong(path, dict, item)
            yield Fields(item, self.source, path)

    def strings(self, key: str) -> dict[str, str]:
        """An object whose values are texts."""
        found = self.object(key)
        return {name: found.text(name) for name in found.data}

    def quantities(self, key: str) -> dict[str, Quantity]:
        """Amounts by the names of resources."""
        found = self.object(key)
        return {name: found.quantity(name) for name in found.data}

    def quantity(self, key: str) -> Quantity:
        """An amount; 0 if there is none."""
        value = self.data.get(key)
        try:
            amount = Quantity() if value is None else Quantity.parse(value)
        except (TypeError, ValueError) as error:
            self.fail(str(error), key)
        if amount < Quantity():
            self.fail(f"{_shortened(value)} is negative", key)
        if int(amount) > _MOST:
            self.fail(f"{_shortened(value)} exceeds 64 bits", key)
        return amount


def _shortened(value: object) -> str:
    return printable(value, _QUOTED)
