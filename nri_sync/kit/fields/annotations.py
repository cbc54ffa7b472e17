"""The pod annotations of a plugin, and their values as Python types. Without I/O.

::

    annotations = Annotations("example.com")
    CPUS = annotations.declare("cpus", parse_cpus)
    BOOST = annotations.declare("boost", parse_bool, default=False)

    def create_container(self, pod, container):
        cpus = CPUS.get(pod, container)     # None, or a frozenset of int

Users write ``cpus.example.com: "2-3"`` for a pod, and ``cpus.example.com/container.nginx: "4"`` for one of its
containers; with ``forms=Annotations.KUBERNETES`` they write ``example.com/cpus`` and
``example.com/cpus.container.nginx``. Call ``declare`` when the module is imported; any thread may call the other
methods.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import string
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

# The least similarity (by difflib) of two domains, and of two names, for one to be a likely misspelling of the
# other: more than that of two domains of one kind, and less than that of "cups" and "cpus".
_ALIKE, _ALIKE_NAME = 0.85, 0.75


# The keys that Kubernetes accepts for annotations: a DNS subdomain and a slash, both optional, and a name.
_LABEL = "[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_NAME = "[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?"
_KEY = re.compile(rf"(?=[^/]{{1,253}}/|[^/]*$)(?:{_LABEL}(?:\.{_LABEL})*/)?{_NAME}")
_FIELDS = frozenset({"key", "name", "domain", "container"})


class Annotation(Generic[T]):
    """One annotation of a plugin. ``Annotations.declare`` makes it."""

    def __init__(
        self,
        name: str,
        domains: Sequence[str],
        forms: Sequence[str],
        parse: Callable[[str], T],
        default: Any,
    ) -> None:
        self._name = name
        self._domains = tuple(domains)
        self._forms = tuple(forms)
        self._parse = parse
        self._default = default
        #: The least specific key of each domain.
        self.keys = tuple(self._key(forms[-1], domain, "NAME") for domain in domains)
        written = (
            re.escape(self._key(form, domain, "\0")).replace(re.escape("\0"), "[^/]+")
            for form in forms
            for domain in domains
        )
        self._known = re.compile("|".join(written))

    def _key(self, form: str, domain: str, container: str) -> str:
        return _written(form, self._name, domain, container)

    def knows(self, key: str) -> bool:
        """Return whether a key is one of this annotation's, for a pod or for any container."""
        return self._known.fullmatch(key) is not None

    def find(
        self, pod: api.PodSandbox, container: api.Container | None = None
    ) -> tuple[str, str] | None:
        """Return the key and the text that apply to a container, or to the pod itself; None if there are none.

        The most specific form applies, even with an empty text. Within one form, the first domain applies.
        """
        name = "" if container is None else container_name(container)
        for form in self._forms:
            if "{container}" in form and not name:
                continue
            for domain in self._domains:
                written = self._key(form, domain, name)
                if written in pod.annotations:
                    return written, pod.annotations[written]
        return None

    def get(self, pod: api.PodSandbox, container: api.Container | None = None) -> T:
        """Return the value for a container, or for the pod itself; the default if there is no annotation.

        Raises ValueError, which names pod, key and text, if the text cannot be parsed. If a handler raises it, the
        request fails, and the user sees the error.
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
    """All annotations of a plugin.

    ``domains`` are further domains that the plugin accepts, such as a former one. Of two equally specific keys,
    the one of the first domain applies. With ``exclusive`` no other program has annotations in these domains.

    ``forms`` are the forms of the keys for a pod, and for one of its containers, the most specific first:
    UPSTREAM, KUBERNETES, BARE, or your own with {name}, {domain}, {container} and {key}, which is {name}.{domain}.
    Raises ValueError for forms that are wrong or contradict each other.
    """

    #: The forms of a key in the reference's plugins: ``cpus.example.com/container.nginx``, ``cpus.example.com``.
    UPSTREAM = ("{key}/container.{container}", "{key}/pod", "{key}")
    #: The usual form in Kubernetes: ``example.com/cpus.container.nginx``, ``example.com/cpus``.
    KUBERNETES = ("{domain}/{name}.container.{container}", "{domain}/{name}")
    #: The forms of nri-plugins' memory-qos, and of many annotations of CRI-O: ``cpus.example.com/nginx``.
    BARE = ("{key}/{container}", "{key}")

    def __init__(
        self, domain: str, *domains: str, forms: Sequence[str] = UPSTREAM, exclusive: bool = False
    ) -> None:
        self._domains = (domain, *domains)
        self._forms = _checked(forms)
        self._exclusive = exclusive
        self._declared: dict[str, Annotation[Any]] = {}
        of_any = "|".join(map(re.escape, self._domains))
        # A pattern of each form, with any name.
        self._shapes = [
            re.compile(
                re.escape(_written(form, "\0", "\1", "\2"))
                .replace(re.escape("\0"), "(?P<name>.+)")
                .replace(re.escape("\1"), f"(?P<domain>{of_any})")
                .replace(re.escape("\2"), "(?P<container>[^/]+)")
            )
            for form in self._forms
        ]

    @overload
    def declare(self, name: str, parse: Callable[[str], T]) -> Annotation[T | None]: ...
    @overload
    def declare(self, name: str, parse: Callable[[str], T], *, default: D) -> Annotation[T | D]: ...
    def declare(
        self, name: str, parse: Callable[[str], Any], *, default: Any = None
    ) -> Annotation[Any]:
        """Add an annotation. ``parse`` makes the value from the text, and raises ValueError for a wrong text.

        Raises ValueError for a name that is declared already, or whose key Kubernetes would refuse.

        Existing parsers are ``str``, ``parse_bool``, ``parse_int``, ``Quantity.parse``, ``parse_cpus``,
        ``parse_list``, ``parse_json``, ``parse_yaml``, ``list_of(...)`` and ``one_of(...)``.
        """
        if name in self._declared:
            raise ValueError(f"the annotation {name!r} of {self._domains[0]} is declared twice")
        for form in self._forms:
            for domain in self._domains:
                key = _written(form, name, domain, "c")
                if not _KEY.fullmatch(key):
                    raise ValueError(
                        f"the annotation {name!r} of {domain!r} would be {key!r}, which Kubernetes refuses: a "
                        "key is a DNS subdomain, a slash, and at most 63 letters, digits and '-', '_', '.'"
                    )
        self._declared[name] = Annotation(name, self._domains, self._forms, parse, default)
        return self._declared[name]

    def __iter__(self) -> Iterator[Annotation[Any]]:
        return iter(self._declared.values())

    def misspelt(self, pod: api.PodSandbox) -> dict[str, str | None]:
        """Return the annotations of a pod that resemble the plugin's, each with the likely key.

        These have a similar name or domain, or a known name in another form. In an exclusive domain the result
        contains all other annotations, too, with None if the plugin has none that is similar.
        """
        found: dict[str, str | None] = {}
        for written in pod.annotations:
            if any(annotation.knows(written) for annotation in self):
                continue
            likely = self._likely_form(written) or self._likely(written)
            if likely or (self._exclusive and self._domain_of(written.partition("/")[0])):
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

    def _likely_form(self, written: str) -> str | None:
        """Return the likely key if only the name is wrong."""
        for form, shape in zip(self._forms, self._shapes):
            match = shape.fullmatch(written)
            names = match and difflib.get_close_matches(
                match["name"], self._declared, 1, _ALIKE_NAME
            )
            if match and names:
                container = match.groupdict().get("container") or ""
                return _written(form, names[0], match["domain"], container)
        return None

    def _likely(self, written: str) -> str | None:
        """Return the likely key if the domain or the form is wrong."""
        key, _, rest = written.partition("/")
        domain = self._domain_of(key)
        if domain is None:
            for name in self._declared:
                for form in self._forms:
                    likely = self._likely_domain(written, name, form)
                    if likely:
                        return likely
            return None
        # The key is "domain/name", or "name.domain" with or without a rest behind a slash.
        name, behind = (rest, "") if key == domain else (key[: -len(domain) - 1], rest)
        names = difflib.get_close_matches(name, self._declared, 1, _ALIKE_NAME)
        if not names:
            return None
        return _written(self._forms[0 if behind else -1], names[0], domain, "NAME")

    def _likely_domain(self, written: str, name: str, form: str) -> str | None:
        """Return ``written`` with its domain corrected, if it has this form; else None."""
        # Container names have no dots, domains no slashes.
        shape = re.escape(_written(form, name, "\1", "\2"))
        match = re.fullmatch(
            shape.replace(re.escape("\1"), "(?P<domain>[^/]+)").replace(
                re.escape("\2"), "(?P<container>[^/.]+)"
            ),
            written,
        )
        close = match and difflib.get_close_matches(match["domain"], self._domains, 1, _ALIKE)
        if not match or not close:
            return None
        return _written(form, name, close[0], match.groupdict().get("container") or "")


def _written(form: str, name: str, domain: str, container: str) -> str:
    return form.format(key=f"{name}.{domain}", name=name, domain=domain, container=container)


def _checked(forms: Sequence[str]) -> tuple[str, ...]:
    """Return the forms. Raises ValueError if they are wrong or contradict each other."""
    if isinstance(forms, str) or not forms or not all(isinstance(form, str) for form in forms):
        raise ValueError(f"forms must be texts such as '{{key}}', in a tuple, not {forms!r}")
    for form in forms:
        try:
            parts = list(string.Formatter().parse(form))
        except ValueError as error:
            raise ValueError(f"the form {form!r}: {error}") from None
        fields = [field for _, field, _, _ in parts if field is not None]
        plain = all(not spec and not conversion for _, _, spec, conversion in parts)
        if not set(fields) <= _FIELDS or len(set(fields)) < len(fields) or not plain:
            raise ValueError(
                f"the form {form!r}: it may contain {{key}}, {{name}}, {{domain}} and {{container}}, each once"
            )
        if ("key" in fields) == bool({"name", "domain"} & set(fields)) or (
            "key" not in fields and not {"name", "domain"} <= set(fields)
        ):
            raise ValueError(f"the form {form!r} needs {{key}}, or {{name}} and {{domain}}")
    if len(set(forms)) < len(forms):
        raise ValueError(f"forms has the same form twice: {forms!r}")
    of_containers = ["{container}" in form for form in forms]
    if of_containers != sorted(of_containers, reverse=True):
        raise ValueError(
            f"forms must begin with those that contain {{container}}, as the most specific: {forms!r}"
        )
    return tuple(forms)


def parse_bool(text: str) -> bool:
    """Parse a boolean as Go's strconv.ParseBool: 1, t, T, true, True, TRUE and 0, f, F, false, False, FALSE."""
    if text in ("1", "t", "T", "true", "True", "TRUE"):
        return True
    if text in ("0", "f", "F", "false", "False", "FALSE"):
        return False
    raise ValueError("neither true nor false")


def parse_int(text: str) -> int:
    """Parse a decimal integer with an optional sign, without spaces."""
    if not re.fullmatch("[+-]?[0-9]{1,100}", text):
        raise ValueError("not an integer")
    return int(text)


def parse_list(text: str) -> list[str]:
    """Parse a list of texts: "a, b", or in YAML ["a", "b"], or lines that begin with "- ". An empty text is an
    empty list."""
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
    """Return a parser for lists in the form of ``parse_list``, whose items ``parse`` parses."""
    return lambda text: [parse(item) for item in parse_list(text)]


def one_of(*choices: str) -> Callable[[str], str]:
    """Return a parser for one of the given words."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(f"not one of {', '.join(choices)}")
        return text

    return parse


def parse_json(text: str) -> Any:
    """Parse a JSON text; an empty text is an empty mapping. A duplicate key is an error."""
    return _document(text, "json")


def parse_yaml(text: str) -> Any:
    """Parse a YAML text; an empty text is an empty mapping. Without the package PyYAML, parse a JSON text."""
    if importlib.util.find_spec("yaml") is None:
        try:
            return _document(text, "json")
        except ValueError:
            pass  # the error below names PyYAML
    return _document(text, "yaml")


def document_of(kind: Callable[..., T]) -> Callable[[str], T | None]:
    """Return a parser for YAML documents of the type ``kind``: a dataclass, ``list[Device]`` or another type of
    ``load``. Its result is None for an empty text."""
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
