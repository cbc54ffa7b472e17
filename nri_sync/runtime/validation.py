"""Validation of the merged adjustment of all plugins, before the runtime applies it.

If plugins subscribe to validation, the runtime sends them the merged adjustment after all plugins have answered,
and continues only if none of them rejects it. ``DefaultValidator`` is the validator that comes with the runtime.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from nri_sync import api
from nri_sync.api import (
    REQUIRED_PLUGINS,
    Field,
    Owners,
    PluginId,
    SecurityProfile,
    ValidateContainerAdjustmentRequest,
    effective_annotation,
    parse_required_plugins,
    plugins_by_name,
)
from nri_sync.errors import Reject
from nri_sync.runtime.quoting import go_quote
from nri_sync.runtime.result import CreateResult

__all__ = ["DefaultValidator", "DefaultValidatorConfig", "validation_request"]


def validation_request(
    result: CreateResult, plugins: Sequence[PluginId]
) -> ValidateContainerAdjustmentRequest:
    """The request to validators about a result that has the answers of all plugins.

    ``plugins`` are the consulted plugins in their order: each plugin that was connected at the time of its
    request, whether it subscribes to the event or not, including validators.
    """
    request = api.validation_request(
        result.request.pod, result.original, result.reply, result.owners, list(plugins)
    )
    if not result.request.HasField("pod"):
        request.ClearField("pod")
    return request


@dataclass(frozen=True)
class DefaultValidatorConfig:
    """The adjustments that the default validator rejects. The names are those of containerd's configuration."""

    #: For the code that starts the validator: do not start it without this.
    enable: bool = False
    reject_oci_hook_adjustment: bool = False
    reject_runtime_default_seccomp_adjustment: bool = False
    reject_unconfined_seccomp_adjustment: bool = False
    reject_custom_seccomp_adjustment: bool = False
    reject_namespace_adjustment: bool = False
    reject_sysctl_adjustment: bool = False
    #: The plugins, as ``name`` or ``NN-name``, that must be connected when a container is created.
    required_plugins: Sequence[str] = ()
    #: The key of a pod annotation that disables this requirement, and that of the pod's own annotation.
    tolerate_missing_plugins_annotation: str = ""

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> DefaultValidatorConfig:
        """Read settings by their names in TOML, as here, or in YAML, such as ``rejectSysctlAdjustment``.

        Raises ValueError for a setting that does not exist and TypeError for a value of a wrong type.
        """
        names = {field.name: field.name for field in fields(cls)}
        names.update({_camel_case(name): name for name in names})
        values: dict[str, Any] = {}
        for key, value in settings.items():
            if key not in names:
                raise ValueError(
                    f"the default validator has no setting {key!r}; it has {', '.join(names)}"
                )
            values[names[key]] = _checked(key, value, getattr(cls, names[key]))
        return cls(**values)


def _camel_case(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join("OCI" if word == "oci" else word.capitalize() for word in rest)


def _checked(key: str, value: object, default: object) -> object:
    if isinstance(default, tuple):
        if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
            return tuple(value)
        wanted = "a list of texts"
    elif isinstance(value, type(default)):
        return value
    else:
        wanted = "true or false" if isinstance(default, bool) else "a text"
    raise TypeError(f"the default validator's {key} must be {wanted}, not {value!r}")


class DefaultValidator:
    """The validator of the reference runtime, a plugin with one handler.

    Thread-safe. ``config`` may be replaced at any time. The new value applies to later requests.
    """

    def __init__(self, config: DefaultValidatorConfig) -> None:
        self.config = config

    def validate_container_adjustment(self, request: ValidateContainerAdjustmentRequest) -> None:
        """Raise Reject, here also a ValueError, with the reference's text for the first reason to reject."""
        config = self.config
        owners = Owners(request.owners)
        if request.HasField("adjust"):
            _check_hooks(config, request, owners)
            _check_seccomp(config, request, owners)
            _check_namespaces(config, request, owners)
        _check_required_plugins(config, request)
        if request.HasField("adjust"):
            _check_sysctl(config, request, owners)


class _Refused(Reject, ValueError):
    """A rejection with the text of the reference, unchanged."""

    __str__ = ValueError.__str__


def _reject(reason: str) -> _Refused:
    return _Refused(f"validation error: {reason}")


def _check_hooks(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest, owners: Owners
) -> None:
    names = owners.owner(request.container.id, Field.OciHooks)
    if config.reject_oci_hook_adjustment and names is not None:
        plugins = "plugins" if "," in names else "plugin"
        raise _reject(f"{plugins} {go_quote(names)} attempted restricted OCI hook injection")


def _check_seccomp(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest, owners: Owners
) -> None:
    owner = owners.owner(request.container.id, Field.SeccompPolicy)
    if owner is None:
        return
    linux = request.container.linux
    # A container without a profile in the request also counts as unconfined.
    kind = (
        linux.seccomp_profile.profile_type
        if linux.HasField("seccomp_profile")
        else SecurityProfile.UNCONFINED
    )
    # The reference has the second space in two of the texts.
    rejected = {
        SecurityProfile.UNCONFINED: (
            config.reject_unconfined_seccomp_adjustment,
            " unconfined",
        ),
        SecurityProfile.RUNTIME_DEFAULT: (
            config.reject_runtime_default_seccomp_adjustment,
            "runtime default",
        ),
        SecurityProfile.LOCALHOST: (config.reject_custom_seccomp_adjustment, " custom"),
    }
    restricted, name = rejected.get(kind, (False, ""))
    if restricted:
        raise _reject(f"plugin {owner} attempted restricted {name} seccomp policy adjustment")


def _check_namespaces(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest, owners: Owners
) -> None:
    if not config.reject_namespace_adjustment:
        return
    # Removals also have owners.
    found = owners.entries(request.container.id, Field.Namespace)
    if found:
        plugins = ", ".join(
            f"{go_quote(plugin)} (namespace {go_quote(kind)})"
            for kind, plugin in sorted(found.items())
        )
        raise _reject(f"attempted restricted namespace adjustment by plugin(s) {plugins}")


def _check_sysctl(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest, owners: Owners
) -> None:
    if not config.reject_sysctl_adjustment:
        return
    entries = owners.entries(request.container.id, Field.Sysctl)
    # A removal has no owner, so it passes.
    plugins = [entries[key] for key in sorted(request.adjust.linux.sysctl) if key in entries]
    if plugins:
        raise _reject(f"attempted restricted sysctl adjustment by plugin(s) {', '.join(plugins)}")


def _check_required_plugins(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest
) -> None:
    if _tolerates_missing(config, request):
        return
    required = [*config.required_plugins, *_annotated_plugins(request)]
    present = plugins_by_name(request)
    missing = [plugin for plugin in required if plugin not in present]
    if missing:
        plugins = "plugin" if len(missing) == 1 else "plugins"
        raise _reject(f"required {plugins} {go_quote(','.join(missing))} not present")


def _annotated_plugins(request: ValidateContainerAdjustmentRequest) -> Iterable[str]:
    value = effective_annotation(request.pod, REQUIRED_PLUGINS, request.container.name)
    if value is None:
        return []
    try:
        return parse_required_plugins(value)
    except ValueError:
        raise _Refused(
            f"invalid {REQUIRED_PLUGINS} annotation {go_quote(value)}: not a list of plugin names"
        ) from None


# The values that Go's strconv.ParseBool accepts.
_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def _tolerates_missing(
    config: DefaultValidatorConfig, request: ValidateContainerAdjustmentRequest
) -> bool:
    key = config.tolerate_missing_plugins_annotation
    if not key:
        return False
    value = effective_annotation(request.pod, key, request.container.name)
    if value is None or value in _FALSE:
        return False
    if value in _TRUE:
        return True
    raise _Refused(
        f"invalid {key} annotation {go_quote(value)}:"
        f" strconv.ParseBool: parsing {go_quote(value)}: invalid syntax"
    )
