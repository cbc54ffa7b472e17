"""Pod annotations that a plugin knows, and their values as types. Without I/O.

::

    annotations = Annotations("example.com")
    CPUS = annotations.declare("cpus", parse_cpus)
    BOOST = annotations.declare("boost", parse_bool, default=False)

    def create_container(self, pod, container):
        cpus = CPUS.get(pod, container)     # None, or a frozenset of int

Users write ``cpus.example.com: "2-3"`` for a pod, and ``cpus.example.com/container.nginx: "4"`` for
one of its containers. Declare when the module is imported; all else may be called from any thread.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Generic, TypeVar, overload

from nri_sync import api
from nri_sync.errors import AnnotationError, ConfigError
from nri_sync.kit.config import documents
from nri_sync.kit.config.foreign import ANNOTATION
from nri_sync.kit.config.readers import Place, reader_of
from nri_sync.kit.fields.names import container_name
from nri_sync.logger import get_logger
from nri_sync.text import printable, quoted

__all__ = [
    "BARE",
    "UPSTREAM",
    "Annotation",
    "Annotations",
    "document_of",
    "list_of",
    "one_of",
    "parse_bool",
    "parse_int",
    "parse_json",
    "parse_list",
    "parse_yaml",
]

logger = get_logger("nri_sync.kit.fields")

T = TypeVar("T")
D = TypeVar("D")

#: The forms of a key in the reference's plugins, the most specific first.
UPSTREAM = ("{key}/container.{container}", "{key}/pod", "{key}")
#: The forms of nri-plugins' memory-qos, and of many annotations of CRI-O.
BARE = ("{key}/{container}", "{key}")

# How alike two domains, and two names, must be for one to be taken for a slip of the other: more than
# two domains of one kind are; and "cups" for "cpus".
_ALIKE, _ALIKE_NAME = 0.85, 0.75


class Annotation(Generic[T]):
    """One annotation of a plugin, made by ``Annotations.declare``."""

    def __init__(
        self, keys: Sequence[str], forms: Sequence[str], parse: Callable[[str], T], default: Any
    ) -> None:
        self.keys = tuple(keys)
        self._forms = tuple(forms)
        self._parse = parse
        self._default = default

    def find(
        self, pod: api.PodSandbox, container: api.Container | None = None
    ) -> tuple[str, str] | None:
        """The key and the text that count for a container, or for the pod itself; None if there is
        none.

        The most specific form counts, even with an empty text; of the same form, that of the first
        domain.
        """
        name = "" if container is None else container_name(container)
        for form in self._forms:
            if "{container}" in form and not name:
                continue
            for key in self.keys:
                written = form.format(key=key, container=name)
                if written in pod.annotations:
                    return written, pod.annotations[written]
        return None

    def get(self, pod: api.PodSandbox, container: api.Container | None = None) -> T:
        """The value for a container, or for the pod itself, or the default where there is none.

        Raises ValueError, which names pod, key and text, if the text cannot be parsed. Raised by a
        handler, it makes the request fail, and the user sees it.
        """
        found = self.find(pod, container)
        if found is None:
            default: T = self._default
            return default
        key, text = found
        try:
            return self._parse(text)
        except (ValueError, TypeError, LookupError) as error:
            where = printable(f"pod {pod.namespace}/{pod.name}: annotation {key}")
            raise AnnotationError(f"{where}: {quoted(text)}: {printable(error)}") from error


class Annotations:
    """All annotations of a plugin, ``name.domain`` each: "cpus.example.com".

    ``domains`` are further ones that the plugin understands, such as a former one; of two keys that
    are equally specific the one of the first domain counts. ``forms`` is how keys are written for a
    pod, and for one of its containers: UPSTREAM, BARE, or others with {key} and {container}, the
    most specific first. With ``exclusive`` nobody else has annotations in these domains.
    """

    def __init__(
        self, domain: str, *domains: str, forms: Sequence[str] = UPSTREAM, exclusive: bool = False
    ) -> None:
        self._domains = (domain, *domains)
        self._forms = tuple(forms)
        self._exclusive = exclusive
        self._declared: dict[str, Annotation[Any]] = {}
        patterns = [re.escape(form).replace(r"\{key\}", "(?P<key>.+)") for form in self._forms]
        self._shapes = [re.compile(p.replace(r"\{container\}", "[^/]+")) for p in patterns]

    @overload
    def declare(self, name: str, parse: Callable[[str], T]) -> Annotation[T | None]: ...
    @overload
    def declare(self, name: str, parse: Callable[[str], T], *, default: D) -> Annotation[T | D]: ...
    def declare(
        self, name: str, parse: Callable[[str], Any], *, default: Any = None
    ) -> Annotation[Any]:
        """Add an annotation. ``parse`` makes its value of its text, and raises ValueError for what
        is wrong.

        ``str``, ``parse_bool``, ``parse_int``, ``Quantity.parse``, ``parse_cpus``, ``parse_list``,
        ``parse_json``, ``parse_yaml``, ``list_of(...)`` and ``one_of(...)`` are ready.
        """
        if name in self._declared:
            raise ValueError(f"the annotation {name!r} of {self._domains[0]} is declared twice")
        keys = [f"{name}.{domain}" for domain in self._domains]
        self._declared[name] = Annotation(keys, self._forms, parse, default)
        return self._declared[name]

    def __iter__(self) -> Iterator[Annotation[Any]]:
        return iter(self._declared.values())

    def misspelt(self, pod: api.PodSandbox) -> dict[str, str | None]:
        """Annotations of a pod that look like the plugin's and are not, each with the likely key.

        Names and domains that are nearly right, "domain/name", and known keys in no form of theirs;
        in an exclusive domain all others, too, with None where none of the plugin's is like it.
        """
        known = {key for annotation in self for key in annotation.keys}
        found: dict[str, str | None] = {}
        for written in pod.annotations:
            matches = (shape.fullmatch(written) for shape in self._shapes)
            if any(match["key"] in known for match in matches if match):
                continue
            key, _, rest = written.partition("/")
            likely = self._likely(key, rest)
            if likely or (self._exclusive and self._domain_of(key)):
                found[written] = likely
        return found

    def warn(self, pod: api.PodSandbox) -> None:
        """Log a warning for each misspelt annotation of a pod; for ``run_pod_sandbox``."""
        for key, likely in self.misspelt(pod).items():
            known = ", ".join(annotation.keys[0] for annotation in self)
            advice = f"did you mean {likely}?" if likely else f"known are {known}"
            logger.warning(
                "pod %s/%s: annotation %s is not understood; %s",
                pod.namespace,
                pod.name,
                key,
                advice,
            )

    def _domain_of(self, key: str) -> str | None:
        ours = (domain for domain in self._domains if f".{key}".endswith(f".{domain}"))
        return next(ours, None)

    def _likely(self, key: str, rest: str) -> str | None:
        domain = self._domain_of(key)
        if domain is None:
            for name in self._declared:
                close = difflib.get_close_matches(key[len(name) + 1 :], self._domains, 1, _ALIKE)
                if key.startswith(f"{name}.") and close:
                    return f"{name}.{close[0]}" + (f"/{rest}" if rest else "")
            return None
        # Most annotations of others are "domain/name".
        name, behind = (rest, "") if key == domain else (key[: -len(domain) - 1], rest)
        names = difflib.get_close_matches(name, self._declared, 1, _ALIKE_NAME)
        if not names:
            return None
        if names[0] == name and behind:
            return self._forms[0].format(key=key, container="NAME")
        return f"{names[0]}.{domain}" + (f"/{behind}" if behind else "")


def parse_bool(text: str) -> bool:
    """What Go's strconv.ParseBool takes: 1, t, T, true, True, TRUE and 0, f, F, false, False,
    FALSE."""
    if text in ("1", "t", "T", "true", "True", "TRUE"):
        return True
    if text in ("0", "f", "F", "false", "False", "FALSE"):
        return False
    raise ValueError("neither true nor false")


def parse_int(text: str) -> int:
    """A decimal integer with an optional sign, and nothing around it."""
    if not re.fullmatch("[+-]?[0-9]{1,100}", text):
        raise ValueError("not an integer")
    return int(text)


def parse_list(text: str) -> list[str]:
    """A list of texts: "a, b", or as in YAML ["a", "b"], or lines that start with "- ". None for an
    empty text."""
    stripped = text.strip()
    if stripped.startswith(("[", "- ")):
        found = parse_yaml(stripped)
        if not isinstance(found, list) or any(isinstance(item, (list, dict)) for item in found):
            raise ValueError("not a list of texts")
        return [item if isinstance(item, str) else str(item) for item in found]
    items = [item.strip() for item in stripped.split(",")] if stripped else []
    if not all(items):
        raise ValueError("an item of the list is empty")
    return items


def list_of(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """A parser for lists, as ``parse_list`` has them, of what ``parse`` takes."""
    return lambda text: [parse(item) for item in parse_list(text)]


def one_of(*choices: str) -> Callable[[str], str]:
    """A parser for one of a few words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"not one of {', '.join(choices)}")
        return text

    return parse


def parse_json(text: str) -> Any:
    """The value of a JSON text; an empty one is an empty mapping. A key that is there twice is an
    error."""
    return _document(text, "json")


def parse_yaml(text: str) -> Any:
    """The value of a YAML text; an empty one is an empty mapping. Without the package PyYAML, of a
    JSON text."""
    if importlib.util.find_spec("yaml") is None:
        try:
            return _document(text, "json")
        except ValueError:
            pass  # what is said below tells of PyYAML
    return _document(text, "yaml")


def document_of(kind: Callable[..., T]) -> Callable[[str], T | None]:
    """A parser for documents of YAML that are what ``kind`` says: a dataclass, ``list[Device]`` and the like,
    as ``load`` takes it. None for an empty text."""
    read = reader_of(kind)

    def parse(text: str) -> T | None:
        if not text.strip():
            return None
        place = Place("", [])
        value: T = read(parse_yaml(text), place)
        if place.problems:
            raise ValueError(place.summary())
        return value

    return parse


def _document(text: str, format: str) -> Any:
    try:
        return documents.parse(text, "", format, bounds=ANNOTATION).data
    except ConfigError as error:
        raise ValueError("; ".join(error.problems)) from None
