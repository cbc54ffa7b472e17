"""Selects the pods and containers of a plugin by namespace, labels and names. Pure and immutable.

Label selectors have the syntax and the meaning of Kubernetes: k8s.io/apimachinery ``pkg/labels``.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Union

from nri_sync import api
from nri_sync.kit.fields.names import container_name
from nri_sync.text import quoted

__all__ = ["LabelSelector", "Requirement", "Selector"]

_TOKEN = re.compile(r"\s*(==|!=|[=!(),<>]|[^=!(),<>\s]+|$)")
_SIGNS = ("==", "!=", *"=!(),<>")
_NAME = re.compile("(?:[A-Za-z0-9][A-Za-z0-9_.-]{0,61})?[A-Za-z0-9]")
_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)*")
_OPERATORS = {
    "=": "In",
    "==": "In",
    "!=": "NotIn",
    "in": "In",
    "notin": "NotIn",
    ">": "Gt",
    "<": "Lt",
}
_FROM_DICT = ("In", "NotIn", "Exists", "DoesNotExist")
_INTEGER = re.compile("[+-]?[0-9]{1,63}")


@dataclass(frozen=True)
class Requirement:
    """A condition on one label. ``operator`` is In, NotIn, Exists, DoesNotExist, Gt or Lt.

    NotIn also holds if there is no such label. Gt and Lt compare integers, and do not hold for other values.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        prefix, slash, name = self.key.rpartition("/")
        if not _NAME.fullmatch(name) or (
            slash and not (len(prefix) <= 253 and _PREFIX.fullmatch(prefix))
        ):
            raise ValueError(f"{quoted(self.key)} is not a label key")
        wanted = {
            "In": "any",
            "NotIn": "any",
            "Gt": "one",
            "Lt": "one",
            "Exists": "no",
            "DoesNotExist": "no",
        }
        if self.operator not in wanted:
            raise ValueError(
                f"{quoted(self.operator)} is not an operator of label selectors: {', '.join(wanted)}"
            )
        count, many = len(self.values), wanted[self.operator]
        if (
            (many == "any" and not count)
            or (many == "one" and count != 1)
            or (many == "no" and count)
        ):
            raise ValueError(
                f"{self.operator} for label {quoted(self.key)} takes {many.replace('any', 'at least one')} value"
            )
        for value in self.values:
            if value and not _NAME.fullmatch(value):
                raise ValueError(f"{quoted(value)} is not a label value, for {quoted(self.key)}")
            if many == "one" and not _INTEGER.fullmatch(value):
                raise ValueError(
                    f"{self.operator} for label {quoted(self.key)} takes an integer, not {quoted(value)}"
                )

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the labels meet this condition."""
        value = labels.get(self.key)
        if self.operator in ("NotIn", "DoesNotExist"):
            return value is None or (self.operator == "NotIn" and value not in self.values)
        if value is None or self.operator == "Exists":
            return value is not None
        if self.operator == "In":
            return value in self.values
        if not _INTEGER.fullmatch(value):
            return False
        number, bound = int(value), int(self.values[0])
        return number > bound if self.operator == "Gt" else number < bound

    def __str__(self) -> str:
        if self.operator in ("In", "NotIn"):
            word = "in" if self.operator == "In" else "notin"
            return f"{self.key} {word} ({','.join(self.values)})"
        if self.operator in ("Gt", "Lt"):
            return f"{self.key}{'>' if self.operator == 'Gt' else '<'}{self.values[0]}"
        return self.key if self.operator == "Exists" else f"!{self.key}"


@dataclass(frozen=True)
class LabelSelector:
    """Conditions on labels. Labels match if they meet all conditions; without conditions, all labels match."""

    requirements: tuple[Requirement, ...] = ()

    @classmethod
    def parse(cls, text: str) -> LabelSelector:
        """Parse a selector in kubectl's syntax, "app=web,tier in (a,b),!canary,size>3". Raises ValueError."""
        return cls(tuple(_Parser(text).requirements()))

    @classmethod
    def of(cls, selector: LabelSelectorLike) -> LabelSelector:
        """Make a selector from a text, or from a mapping with matchLabels and matchExpressions as in Kubernetes.

        Raises ValueError, or TypeError for any other type.
        """
        if isinstance(selector, LabelSelector):
            return selector
        if isinstance(selector, str):
            return cls.parse(selector)
        if not isinstance(selector, Mapping):
            raise TypeError(
                f"a label selector must be a str or a mapping, not {type(selector).__name__}"
            )
        unknown = set(selector) - {"matchLabels", "matchExpressions"}
        if unknown:
            raise ValueError(
                f"a label selector has matchLabels and matchExpressions, not {sorted(map(str, unknown))}"
            )
        found = [Requirement(k, "In", (v,)) for k, v in (selector.get("matchLabels") or {}).items()]
        for expression in selector.get("matchExpressions") or ():
            try:
                operator = expression["operator"]
                if operator not in _FROM_DICT:
                    raise ValueError(
                        f"{quoted(operator)} is not an operator of matchExpressions: {', '.join(_FROM_DICT)}"
                    )
                values = tuple(expression.get("values") or ())
                found.append(Requirement(expression["key"], operator, values))
            except KeyError as error:
                raise ValueError(
                    f"an entry of matchExpressions has no {error}: {quoted(expression)}"
                ) from None
        return cls(tuple(found))

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether the labels meet all conditions."""
        return all(requirement.matches(labels) for requirement in self.requirements)

    def __str__(self) -> str:
        return ",".join(map(str, self.requirements))


LabelSelectorLike = Union[LabelSelector, str, Mapping[str, Any]]


class _Parser:
    """Parses the text of a label selector by tokens. A sign is never a key or a value; "in" may be either."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _TOKEN.findall(text)
        self._at = 0

    def requirements(self) -> Iterable[Requirement]:
        if self._peek() == "":
            return
        yield self._requirement()
        while self._peek() == ",":
            self._next()
            yield self._requirement()
        if self._peek() != "":
            self._fail("',' or the end")

    def _requirement(self) -> Requirement:
        absent = self._peek() == "!"
        if absent:
            self._next()
        key = self._word("a key")
        if absent or self._peek() in ("", ","):
            return Requirement(key, "DoesNotExist" if absent else "Exists")
        sign = self._peek()
        if sign not in _OPERATORS:
            self._fail(f"one of {' '.join(_OPERATORS)}")
        self._next()
        if sign in ("in", "notin"):
            values = self._values()
        else:
            # "key=" requires the empty value.
            values = [""] if self._peek() in ("", ",") else [self._word("a value")]
        return Requirement(key, _OPERATORS[sign], tuple(sorted(set(values))))

    def _values(self) -> list[str]:
        self._sign("(")
        values = []
        while True:
            values.append("" if self._peek() in (",", ")") else self._word("a value"))
            if self._sign(",", ")") == ")":
                return values

    def _sign(self, *wanted: str) -> str:
        if self._peek() not in wanted:
            self._fail(" or ".join(map(repr, wanted)))
        return self._next()

    def _word(self, what: str) -> str:
        if self._peek() in _SIGNS or self._peek() == "":
            self._fail(what)
        return self._next()

    def _peek(self) -> str:
        return self._tokens[self._at] if self._at < len(self._tokens) else ""

    def _next(self) -> str:
        token = self._peek()
        self._at += 1
        return token

    def _fail(self, wanted: str) -> NoReturn:
        found = quoted(self._peek()) if self._peek() else "its end"
        raise ValueError(
            f"the label selector {quoted(self._text)} needs {wanted} where it has {found}"
        )


@dataclass(frozen=True)
class Selector:
    """Selects the pods and containers that a plugin handles: ``if not selector(pod, container): return``.

    It selects a pod if its namespace is in ``namespaces`` (or that is empty) and not in ``except_namespaces``, and
    its labels match ``labels``. It selects a container if its name is in ``containers``, or that is empty.
    Namespaces and names may have the wildcards of a shell: ``"team-*"``. While CRI-O sends no name of a container,
    its label gives the name.
    """

    namespaces: Sequence[str] = ()
    except_namespaces: Sequence[str] = ()
    labels: LabelSelectorLike = LabelSelector()
    containers: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name in ("namespaces", "except_namespaces", "containers"):
            patterns = getattr(self, name)
            if isinstance(patterns, str):
                raise TypeError(f"{name} must be a list, not the str {quoted(patterns)}")
            object.__setattr__(self, name, tuple(patterns))
        object.__setattr__(self, "labels", LabelSelector.of(self.labels))

    def __call__(self, pod: api.PodSandbox, container: api.Container | None = None) -> bool:
        """Return whether the pod is selected, and the container, if given. ``Synchronize`` passes containers
        separately from their pods."""
        labels = self.labels
        assert isinstance(labels, LabelSelector)
        return (
            (not self.namespaces or _any(self.namespaces, pod.namespace))
            and not _any(self.except_namespaces, pod.namespace)
            and labels.matches(pod.labels)
            and (
                container is None
                or not self.containers
                or _any(self.containers, container_name(container))
            )
        )


def _any(patterns: Iterable[str], name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
