"""Validation of a pod, as by the API server, in addition to the checks of the mapping.

After Kubernetes v1.36: ``pkg/apis/core/validation`` and ``k8s.io/apimachinery/pkg/util/validation``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NoReturn

from nri_sync.testing.manifests.fields import Fields
from nri_sync.testing.manifests.model import ManifestError
from nri_sync.text import printable

__all__ = ["validate"]

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_IS_LABEL = re.compile(_LABEL)
_IS_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_IS_NAME = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_IS_UID = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
_LONGEST_LABEL, _LONGEST_SUBDOMAIN = 63, 253
# ``TotalAnnotationSizeLimitB``.
_ANNOTATIONS = 256 << 10
_PORTS = range(1, 65536)
_QUOTED = 60


def validate(
    spec: Fields,
    *,
    name: str,
    namespace: str,
    uid: str,
    labels: Mapping[str, str],
    annotations: Mapping[str, str],
) -> None:
    """Raise ManifestError for a pod that the API server would reject."""
    _check_subdomain(spec.source, "metadata.name", name)
    _check_label(spec.source, "metadata.namespace", namespace)
    if not _IS_UID.fullmatch(uid):
        _refuse(spec.source, "metadata.uid", uid, "letters, digits and -")
    for key, value in labels.items():
        _check_key(spec.source, "metadata.labels", key)
        if value and not (_IS_NAME.fullmatch(value) and len(value) <= _LONGEST_LABEL):
            wanted = f"at most {_LONGEST_LABEL} letters, digits, -, _ and ., with a letter or digit at both ends"
            _refuse(spec.source, f"metadata.labels.{key}", value, wanted)
    for key in annotations:
        # The keys of the kubelet's annotations have upper-case letters, too.
        _check_key(spec.source, "metadata.annotations", key)
    size = sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())
    if size > _ANNOTATIONS:
        problem = f"have {size:,} bytes, and {_ANNOTATIONS:,} are allowed"
        raise ManifestError(spec.source, "metadata.annotations", problem)
    if spec.text("hostname"):
        _check_label(spec.source, f"{spec.path}.hostname", spec.text("hostname"))
    _check_unique(spec.objects("volumes"), "name")
    for volume in spec.objects("volumes"):
        _check_label(volume.source, f"{volume.path}.name", volume.text("name"))
    for key in ("initContainers", "containers", "ephemeralContainers"):
        for container in spec.objects(key):
            _check_container(container)


def _check_container(container: Fields) -> None:
    name = container.required("name", "name the container")
    _check_label(container.source, f"{container.path}.name", name)
    _check_unique(container.objects("volumeMounts"), "mountPath")
    for mount in container.objects("volumeMounts"):
        if ":" in mount.text("mountPath"):
            mount.fail("must not have a colon", "mountPath")
    for variable in container.objects("env"):
        if "=" in variable.text("name"):
            variable.fail("must not have an equals sign", "name")
    for port in container.objects("ports"):
        if port.integer("containerPort") not in _PORTS:
            port.fail("must be from 1 to 65535", "containerPort")
        if port.integer("hostPort") and port.integer("hostPort") not in _PORTS:
            port.fail("must be from 1 to 65535", "hostPort")


def _check_unique(items: Iterable[Fields], key: str) -> None:
    seen: set[str] = set()
    for item in items:
        value = item.text(key)
        if value in seen:
            item.fail(f"{_shown(value)} occurs twice", key)
        seen.add(value)


def _check_key(source: str, path: str, key: str) -> None:
    """``IsQualifiedName``."""
    prefix, slash, name = key.rpartition("/")
    fits = _IS_NAME.fullmatch(name) and len(name) <= _LONGEST_LABEL
    if slash:
        fits = (
            fits and _IS_SUBDOMAIN.fullmatch(prefix.lower()) and len(prefix) <= _LONGEST_SUBDOMAIN
        )
    if not fits:
        wanted = (
            'a key such as "app" or "example.com/app", with at most 63 characters after the slash'
        )
        _refuse(source, path, key, wanted)


def _check_label(source: str, path: str, value: str) -> None:
    """``IsDNS1123Label``."""
    if not _IS_LABEL.fullmatch(value) or len(value) > _LONGEST_LABEL:
        wanted = f"at most {_LONGEST_LABEL} small letters, digits and -, with a letter or digit at both ends"
        _refuse(source, path, value, wanted)


def _check_subdomain(source: str, path: str, value: str) -> None:
    """``IsDNS1123Subdomain``."""
    if not _IS_SUBDOMAIN.fullmatch(value) or len(value) > _LONGEST_SUBDOMAIN:
        wanted = (
            f"at most {_LONGEST_SUBDOMAIN} small letters, digits, - and ., "
            "with a letter or digit at both ends"
        )
        _refuse(source, path, value, wanted)


def _refuse(source: str, path: str, value: str, wanted: str) -> NoReturn:
    raise ManifestError(source, path, f"{_shown(value)} must be {wanted}")


def _shown(value: str) -> str:
    return f'"{printable(value, _QUOTED)}"'
