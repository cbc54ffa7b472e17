"""Random cases for merging and validation, and the results of nri_sync.

A case has the format of `difftest/main.go`, and a number determines it, so that a failure can be repeated.
"""

from __future__ import annotations

import base64
import difflib
import random
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message

from nri_sync import api
from nri_sync.api import nri_pb2
from nri_sync.errors import ConflictError, NRIError, ValidationRejected
from nri_sync.runtime.result import CreateResult, StopResult, UpdateResult
from nri_sync.runtime.validation import (
    DefaultValidator,
    DefaultValidatorConfig,
    validation_request,
)
from tests.interop.makers import FIELDS, OWNED, Maker

__all__ = [
    "Case",
    "Outcome",
    "Plugin",
    "merge_case",
    "ours",
    "theirs",
]

_M = TypeVar("_M", bound=Message)

VALIDATOR = "default-validator"


class Plugin(NamedTuple):
    """A plugin's answer; None if the plugin has not subscribed."""

    idx: str
    name: str
    reply: Message | None
    null: bool = False
    validates: bool = False
    reason: str = ""

    @property
    def full_name(self) -> str:
        return f"{self.idx}-{self.name}"


class Case(NamedTuple):
    """One request, and the plugins that answer it, sorted by index."""

    op: str
    request: Message
    plugins: list[Plugin]
    validator: DefaultValidatorConfig | None = None

    def wire(self) -> dict[str, Any]:
        """The case in the format of the Go peer."""
        return {
            "op": self.op,
            "request": _base64(self.request),
            "plugins": [
                {
                    **plugin._asdict(),
                    "index": plugin.idx,
                    "reply": None if plugin.reply is None else _base64(plugin.reply),
                }
                for plugin in self.plugins
            ],
            "defaultValidator": None if self.validator is None else _settings(self.validator),
        }


class Outcome(NamedTuple):
    """The outcome of a case. Entries whose order Go leaves to chance are sorted."""

    error: str = ""
    response: Message | None = None
    # Whether the response has an update of the requested container.
    requested: bool = False
    # The request in the form in which each plugin, and then the validators, have received it.
    seen: tuple[Message, ...] = ()
    validation: Message | None = None

    def differs(self, other: Outcome) -> str:
        """The differences from another outcome, for people."""
        lines: list[str] = []
        for name, mine, others in zip(self._fields, self, other):
            if mine != others:
                texts = [
                    [str(item) for item in value] if isinstance(value, tuple) else [str(value)]
                    for value in (mine, others)
                ]
                before, after = ("\n".join(text).splitlines() for text in texts)
                lines += difflib.unified_diff(
                    before, after, f"{name} ours", f"{name} theirs", "", ""
                )
        return "\n".join(lines)


def _base64(message: Message) -> str:
    return base64.b64encode(message.SerializeToString()).decode()


def _settings(config: DefaultValidatorConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {
        name.replace("_", ""): value for name, value in vars(config).items()
    }
    # The Go struct has another name for this setting.
    settings["TolerateMissingAnnotation"] = settings.pop("toleratemissingpluginsannotation")
    return settings


# Cases

_REQUIRED_VALUES = [
    "p0", "[p0]", '["p0", "09-p9"]', "- p0\n- 'p1'\n", "", "null", "[]", "[ 1, yes ]", "{a: b}",
]  # fmt: skip
_TOLERATE = "tolerate.example.com"


def merge_case(number: int) -> Case:
    """The case with that number."""
    rng = random.Random(number)
    op = rng.choice(["CreateContainer", "CreateContainer", "UpdateContainer", "StopContainer"])
    request = Maker(rng, rng.choice([0.0, 0.3, 0.8])).make(getattr(nri_pb2, f"{op}Request"))
    request.container.SetInParent()
    request.container.id = rng.choice(["c0", "c0", "c1"])
    request.container.name = "n"
    plugins = _plugins(rng, op)
    config = None
    if op == "CreateContainer":
        if rng.random() < 0.3 and not any(plugin.reason for plugin in plugins):
            config = _config(rng)
        if rng.random() < 0.3:
            _annotate(rng, request.pod)
    return Case(op, request, plugins, config)


def _plugins(rng: random.Random, op: str) -> list[Plugin]:
    count = rng.randint(1, 5)
    density = rng.choice([0.03, 0.1, 0.3, 0.7])
    shared = rng.random() < 0.4
    if shared:
        # A few fields that all plugins may set, so that each causes conflicts sometimes.
        density = 0.85
        few = set(rng.sample(sorted(OWNED), 2))
    makers = [Maker(rng, density, marks=rng.choice([0.0, 0.2, 0.5])) for _ in range(count)]
    if shared:
        for maker in makers:
            maker.allowed = (FIELDS - OWNED) | few
    elif rng.random() < 0.7:
        # Each field belongs to one plugin, so that conflicts are rare.
        owner = {name: rng.randrange(count) for name in sorted(OWNED)}
        for number, maker in enumerate(makers):
            maker.allowed = (FIELDS - OWNED) | {n for n, who in owner.items() if who == number}
    same = rng.random() < 0.05
    # At most one, because Go reports the first rejection that arrives.
    rejecting = rng.randrange(10)
    plugins = []
    for number, maker in enumerate(makers):
        reply = maker.make(getattr(nri_pb2, f"{op}Response"))
        if shared and isinstance(reply, nri_pb2.CreateContainerResponse):
            reply.ClearField("update")
        silent = rng.random() < 0.05
        validates = op == "CreateContainer" and rng.random() < 0.2
        plugins.append(
            Plugin(
                idx="05" if same else f"0{number}",
                name="same" if same else f"p{number}",
                reply=None if silent else reply,
                null=rng.random() < 0.03,
                validates=validates,
                reason="no" if validates and number == rejecting else "",
            )
        )
    return plugins


def _config(rng: random.Random) -> DefaultValidatorConfig:
    def flag() -> bool:
        return rng.random() < 0.4

    return DefaultValidatorConfig(
        enable=rng.random() < 0.9,
        reject_oci_hook_adjustment=flag(),
        reject_runtime_default_seccomp_adjustment=flag(),
        reject_unconfined_seccomp_adjustment=flag(),
        reject_custom_seccomp_adjustment=flag(),
        reject_namespace_adjustment=flag(),
        reject_sysctl_adjustment=flag(),
        required_plugins=rng.choice([(), (), ("p0",), ("p0", "p9", "01-p1", "p8")]),
        tolerate_missing_plugins_annotation=rng.choice(["", _TOLERATE]),
    )


def _annotate(rng: random.Random, pod: nri_pb2.PodSandbox) -> None:
    form = rng.choice(["", "/pod", "/container.n", "/container.other"])
    pod.annotations[api.REQUIRED_PLUGINS + form] = rng.choice(_REQUIRED_VALUES)
    if rng.random() < 0.5:
        pod.annotations[_TOLERATE + form] = rng.choice(["true", "F", "maybe", ""])


# Outcomes

_RESULTS: dict[str, type[Any]] = {
    "CreateContainer": CreateResult,
    "UpdateContainer": UpdateResult,
    "StopContainer": StopResult,
}


def ours(case: Case) -> Outcome:
    """The outcome of a case in nri_sync."""
    result: Any = _RESULTS[case.op](case.request)
    given = [case.request, *(p.reply for p in case.plugins if p.reply is not None)]
    before = [message.SerializeToString(deterministic=True) for message in given]
    seen: list[Message] = []
    outcome = Outcome()
    try:
        for plugin in case.plugins:
            if plugin.reply is not None:
                seen.append(_ordered(result.request))
                result.apply(plugin.full_name, None if plugin.null else plugin.reply)
        if isinstance(result, CreateResult):
            outcome = outcome._replace(validation=_validate(case, result))
        outcome = outcome._replace(
            response=_ordered(result.reply),
            requested=isinstance(result, UpdateResult) and result.requested is not None,
        )
    except (ConflictError, _Rejected) as error:
        asked = error.request if isinstance(error, _Rejected) else None
        # The unescaped text: str() escapes unprintable characters, and Go does not.
        outcome = outcome._replace(error=str(error.args[0]), validation=asked)
    assert [message.SerializeToString(deterministic=True) for message in given] == before
    return outcome._replace(seen=tuple(seen), error=_sorted_plugins(outcome.error))


class _Rejected(NRIError):
    """A rejection, with the request that it answers."""

    def __init__(self, cause: ValidationRejected, request: Message | None) -> None:
        super().__init__(str(cause))
        self.request = request


def _validate(case: Case, result: CreateResult) -> Message | None:
    """Call the validators; returns the request that they have received."""
    ids = [api.PluginId(plugin.idx, plugin.name) for plugin in case.plugins]
    builtin = case.validator is not None and case.validator.enable
    if builtin:
        ids = sorted([api.PluginId("00", VALIDATOR), *ids], key=lambda plugin: plugin.idx)
    request = validation_request(result, ids)
    validators = [plugin for plugin in case.plugins if plugin.validates]
    asked = _ordered(request) if validators else None
    try:
        if builtin and case.validator is not None:
            try:
                DefaultValidator(case.validator).validate_container_adjustment(request)
            except ValueError as error:
                raise ValidationRejected(f"00-{VALIDATOR}", str(error)) from None
        for plugin in validators:
            answer = nri_pb2.ValidateContainerAdjustmentResponse(
                reject=bool(plugin.reason), reason=plugin.reason
            )
            api.check_validation(answer, plugin.full_name)
    except ValidationRejected as rejected:
        raise _Rejected(rejected, asked) from None
    return asked


def theirs(case: Case, result: dict[str, Any]) -> Outcome:
    """The outcome of a case in Go."""
    assert not result["panic"], result["panic"]

    def read(kind: str, data: str | None) -> Message:
        # Go writes empty bytes as null.
        message: Message = getattr(nri_pb2, kind).FromString(base64.b64decode(data or ""))
        return _ordered(message)

    # The text of a YAML parser is not compared.
    error = re.sub(
        r'(required-plugins\S* annotation ".*": )yaml: .*',
        r"\1not a list of plugin names",
        _sorted_plugins(result["error"]),
        flags=re.DOTALL,
    )
    asked = result["validation"]
    return Outcome(
        error=error,
        response=None if error else read(f"{case.op}Response", result["response"]),
        requested=case.op == "UpdateContainer" and not error and not result["null"],
        seen=tuple(read(f"{case.op}Request", data) for data in result["seen"] or ()),
        validation=None if asked is None else read("ValidateContainerAdjustmentRequest", asked),
    )


def _sorted_plugins(error: str) -> str:
    """The text of an error, with the list of plugins at its end sorted."""
    text, separator, plugins = error.partition("plugin(s) ")
    return text + separator + ", ".join(sorted(plugins.split(", ")))


def _ordered(message: _M) -> _M:
    """A copy of a message, with entries sorted whose order Go leaves to chance."""
    copy: Any = type(message)()
    copy.CopyFrom(message)
    if hasattr(copy, "container") and copy.HasField("container"):
        namespaces = copy.container.linux.namespaces
        namespaces.sort(key=lambda namespace: str(namespace.type))
    if hasattr(copy, "adjust"):
        ordered = list(_mounts(copy.adjust.mounts))
        mounts = nri_pb2.ContainerAdjustment(mounts=ordered).mounts
        copy.adjust.ClearField("mounts")
        copy.adjust.mounts.extend(mounts)
    return copy  # type: ignore[no-any-return]


def _mounts(mounts: Iterable[nri_pb2.Mount]) -> Iterable[nri_pb2.Mount]:
    """Mounts, with each run of removals sorted."""
    run: list[nri_pb2.Mount] = []
    for mount in mounts:
        if mount.destination.startswith("-"):
            run.append(mount)
        else:
            yield from sorted(run, key=str)
            run = []
            yield mount
    yield from sorted(run, key=str)
