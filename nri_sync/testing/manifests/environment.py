"""The environment of a container, and the references in its command line.

After Kubernetes v1.36, ``makeEnvironmentVariables`` in ``pkg/kubelet/kubelet_pods.go`` and
``third_party/forked/golang/expansion``. The kubelet's order of the variables differs from run to run; this module
uses the order of the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Callable

from nri_sync.kit.fields.quantity import Quantity
from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import Assumptions
from nri_sync.testing.manifests.resources import ContainerAmounts, PodAmounts

__all__ = ["Environment", "Objects", "expand", "expand_all"]

_REFERENCE = re.compile(r"\$(?:\(([^)]*)\)|(.)|$)", re.DOTALL)
_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")
_ONE = Quantity.parse(1)
# The limits for one text with its references resolved, and for all texts of a container: as much as one message of
# a runtime holds. Linux allows 128 KiB for one text. Without limits, references to references could grow
# endlessly.
_LONGEST, _LONGEST_IN_ALL = 1 << 20, 16 << 20
# The limit for the variables of all containers together, each counted with the memory of its objects. A ConfigMap
# is written once, and any number of containers may have its variables, with any number of prefixes.
_VARIABLES_IN_ALL, _OVERHEAD = 128 << 20, 128

Note = Callable[[str], object]


def expand(text: str, *known: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` by its value in the first of ``known`` that has one; ``$$`` is a dollar sign.

    The time is linear in the lengths of the text and of the result. Raises ValueError for too long a result.
    """
    # After the last closing bracket there is no reference, even if many are opened.
    end = text.rfind(")") + 1
    length = len(text)

    def value(match: re.Match[str]) -> str:
        nonlocal length
        name, other = match[1], match[2]
        if name is None:
            return "$" if other == "$" else match[0]
        found = next((values[name] for values in known if name in values), match[0])
        length += len(found) - len(match[0])
        if length > _LONGEST:
            raise ValueError(f"is longer than {_LONGEST:,} characters with its references resolved")
        return found

    return _REFERENCE.sub(value, text[:end]) + text[end:].replace("$$", "$")


def expand_all(
    holder: Fields, key: str, texts: Iterable[str], *known: Mapping[str, str]
) -> list[str]:
    """:func:`expand` for the ``texts`` at a key. Raises ManifestError."""
    found: list[str] = []
    left = _LONGEST_IN_ALL
    for text in texts:
        try:
            found.append(expand(text, *known))
        except ValueError as error:
            holder.fail(str(error), key)
        left -= len(found[-1])
        if left < 0:
            holder.fail(
                f"has more than {_LONGEST_IN_ALL:,} characters with references resolved", key
            )
    return found


@dataclass
class Objects:
    """The other documents, by namespace and name."""

    config_maps: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    secrets: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    service_accounts: dict[tuple[str, str], Fields] = field(default_factory=dict)
    claims: dict[tuple[str, str], Fields] = field(default_factory=dict)
    #: PersistentVolumes have no namespace.
    volumes: dict[str, Fields] = field(default_factory=dict)
    #: By namespace.
    limit_ranges: dict[str, list[Fields]] = field(default_factory=dict)
    services: dict[tuple[str, str], Fields] = field(default_factory=dict)
    #: Runtime classes have no namespace.
    runtime_classes: dict[str, Fields] = field(default_factory=dict)
    #: The characters of variables that the containers may still have.
    variables_left: int = _VARIABLES_IN_ALL


@dataclass
class Environment:
    """Works out the variables of the containers of one pod."""

    #: ``metadata`` as the kubelet has it, and the other values of ``fieldRef``, by path.
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    values: Mapping[str, str]
    namespace: str
    amounts: PodAmounts
    assumptions: Assumptions
    objects: Objects
    #: Of the services that the kubelet knows of.
    services: Mapping[str, str]

    def of(self, container: Fields, amounts: ContainerAmounts, note: Note) -> dict[str, str]:
        """Those of an entry of ``spec.containers``; ``note`` is called with each unknown."""
        services = self.services
        found: dict[str, str] = {}
        self._count(container, "env", services)
        for source in container.objects("envFrom"):
            prefix, data = source.text("prefix"), self._env_from(source, note)
            self._count(container, "envFrom", data, len(prefix))
            found.update((f"{prefix}{k}", v) for k, v in sorted(data.items()))
        for entry in container.objects("env"):
            name = entry.required("name", "name the variable")
            if entry.text("value"):
                [found[name]] = expand_all(entry, "value", [entry.text("value")], found, services)
            elif entry.object("valueFrom"):
                value = self._value_from(entry.object("valueFrom"), name, amounts, note)
                if value is not None:
                    found[name] = value
            else:
                found[name] = ""
            self._count(container, "env", {name: found.get(name, "")})
        if sum(map(len, found.values())) > _LONGEST_IN_ALL:
            container.fail(f"has more than {_LONGEST_IN_ALL:,} characters in all", "env")
        return {**found, **{key: value for key, value in services.items() if key not in found}}

    def _count(
        self, container: Fields, key: str, variables: Mapping[str, str], prefix: int = 0
    ) -> None:
        """Count the variables that a container gets. Raises ManifestError for too many."""
        texts = sum(map(len, variables)) + sum(map(len, variables.values()))
        left = self.objects.variables_left - texts - len(variables) * (prefix + _OVERHEAD)
        self.objects.variables_left = left
        if left < 0:
            container.fail(
                f"the variables of all containers have more than {_VARIABLES_IN_ALL:,} characters, each variable "
                f"counted with {_OVERHEAD} more",
                key,
            )

    def _env_from(self, source: Fields, note: Note) -> Mapping[str, str]:
        """The variables of a source, without its prefix."""
        for key, what, known in self._sources():
            reference = source.object(f"{key}Ref")
            if not reference:
                continue
            name = reference.required("name", f"name the {what}")
            data = known.get((self.namespace, name))
            if data is None and not reference.flag("optional"):
                note(f"the variables of {what} {name} are unknown: it is not among the documents")
            return data or {}
        return {}

    def _sources(self) -> list[tuple[str, str, dict[tuple[str, str], dict[str, str]]]]:
        return [
            ("configMap", "ConfigMap", self.objects.config_maps),
            ("secret", "Secret", self.objects.secrets),
        ]

    def _value_from(
        self, source: Fields, name: str, amounts: ContainerAmounts, note: Note
    ) -> str | None:
        """The value of a variable; None to leave the variable out."""
        if source.object("fieldRef"):
            return self._field(source.object("fieldRef"))
        if source.object("resourceFieldRef"):
            return self._resource(source.object("resourceFieldRef"), amounts)
        for key, what, known in self._sources():
            reference = source.object(f"{key}KeyRef")
            if not reference:
                continue
            holder = reference.required("name", f"name the {what}")
            data = known.get((self.namespace, holder))
            entry = reference.required("key", f"name the key in {what} {holder}")
            if data is not None and entry in data:
                return data[entry]
            if reference.flag("optional"):
                return None
            if data is not None:
                reference.fail(f"{what} {holder} has no {entry!r}", "key")
            note(f"the value of {name} is unknown: {what} {holder} is not among the documents")
            return f"<{entry} of {what} {holder}>"
        if source.object("fileKeyRef"):
            note(f"the value of {name} is unknown: it is in a file of a volume")
            return f"<{source.object('fileKeyRef').text('key')} of a file>"
        source.fail(
            "has none of fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef and fileKeyRef"
        )

    def _field(self, reference: Fields) -> str:
        """``podFieldSelectorRuntimeValue``."""
        path = reference.required("fieldPath", "such as metadata.name")
        subscript = _SUBSCRIPT.fullmatch(path)
        if subscript:
            held = self.labels if subscript[1] == "labels" else self.annotations
            return held.get(subscript[2], "")
        if path in self.values:
            return self.values[path]
        reference.fail(
            f"{path!r} is not available in variables; these are: metadata.labels['KEY'], "
            f"metadata.annotations['KEY'], {', '.join(self.values)}",
            "fieldPath",
        )

    def _resource(self, reference: Fields, amounts: ContainerAmounts) -> str:
        """``containerResourceRuntimeValue``: without a limit, the node's allocatable amount."""
        wanted = reference.required("resource", "such as limits.cpu")
        name = reference.text("containerName")
        if name:
            named = [item for item in self.amounts.containers if item.name == name]
            if not named:
                reference.fail(f"there is no container {name!r} in the pod", "containerName")
            amounts = named[0]
        which, _, resource = wanted.partition(".")
        if which not in ("limits", "requests") or not (
            resource in ("cpu", "memory", "ephemeral-storage") or resource.startswith("hugepages-")
        ):
            reference.fail(f"{wanted!r} is none of limits.cpu, requests.memory, ...", "resource")
        divisor = reference.quantity("divisor") or _ONE
        held = self._with_node_limits(amounts)
        amount = (held.limits if which == "limits" else held.requests).get(resource, Quantity())
        if resource == "cpu":
            return str(-(-amount.milli // divisor.milli))
        return str(-(-int(amount) // int(divisor)))

    def _with_node_limits(self, amounts: ContainerAmounts) -> ContainerAmounts:
        node = {
            "cpu": Quantity.of(self.assumptions.cpus),
            # As in the node's ``status.allocatable``.
            "memory": Quantity.of(self.assumptions.memory - self.assumptions.reserved_memory),
        }
        of_pod = {k: v for k, v in self.amounts.limits.items() if v and k in node}
        own = {name: limit for name, limit in amounts.limits.items() if limit}
        return replace(amounts, limits={**node, **of_pod, **own})
