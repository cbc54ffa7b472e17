"""Validation requests, and the reasons why the default validator rejects."""

from __future__ import annotations

from typing import Any

import pytest

from nri_sync import api
from nri_sync.api import (
    Adjustment,
    Container,
    CreateContainerRequest,
    CreateContainerResponse,
    Field,
    LinuxSeccomp,
    PluginId,
    SecurityProfile,
    Update,
    ValidateContainerAdjustmentRequest,
)
from nri_sync.runtime.result import CreateResult
from nri_sync.runtime.validation import (
    DefaultValidator,
    DefaultValidatorConfig,
    validation_request,
)

__all__: list[str] = []

TOLERATE = "tolerate.example.com"


def request(
    *adjustments: Adjustment,
    annotations: dict[str, str] | None = None,
    profile: int | None = None,
    plugins: tuple[str, ...] = (),
) -> ValidateContainerAdjustmentRequest:
    """The request to validators after plugins 10-a, 10-b and so on have made the adjustments."""
    creation = CreateContainerRequest(container=Container(id="c1", name="web"))
    creation.pod.annotations.update(annotations or {})
    if profile is not None:
        creation.container.linux.seccomp_profile.profile_type = profile  # type: ignore[assignment]
    result = CreateResult(creation)
    for letter, adjustment in zip("abc", adjustments):
        result.apply(f"10-{letter}", CreateContainerResponse(adjust=adjustment.message))
    return validation_request(result, [PluginId("10", name) for name in plugins])


def reason(asked: ValidateContainerAdjustmentRequest, **config: Any) -> str | None:
    """The text of the default validator's rejection; None if it accepts."""
    validator = DefaultValidator(DefaultValidatorConfig(**config))
    try:
        validator.validate_container_adjustment(asked)
    except ValueError as error:
        return str(error)
    return None


class TestRequest:
    def test_the_request_has_pod_container_changes_and_owners(self) -> None:
        creation = CreateContainerRequest(container=Container(id="c1", env=["A=0"]))
        creation.pod.id = "p"
        result = CreateResult(creation)
        answer = CreateContainerResponse(
            adjust=Adjustment().add_env("A", "1").message,
            update=[Update("c0").set_memory(limit=1).message],
        )
        result.apply("10-a", answer)
        asked = validation_request(result, [PluginId("10", "a"), PluginId("20", "b")])
        assert asked.pod.id == "p"
        # The original container, with the messages that are always present.
        assert asked.container.env == ["A=0"]
        assert asked.container.linux.resources.HasField("memory")
        assert asked.adjust == result.reply.adjust
        assert list(asked.update) == list(result.reply.update)
        owners = api.Owners(asked.owners)
        assert owners.owner("c1", Field.Env, "A") == "10-a"
        assert owners.owner("c0", Field.MemLimit) == "10-a"
        assert [(p.index, p.name) for p in asked.plugins] == [("10", "a"), ("20", "b")]

    def test_the_request_has_no_pod_for_a_creation_without_one(self) -> None:
        result = CreateResult(CreateContainerRequest(container=Container(id="c1")))
        assert not validation_request(result, []).HasField("pod")


SETTINGS = {
    "enable": True,
    "reject_oci_hook_adjustment": True,
    "reject_runtime_default_seccomp_adjustment": True,
    "reject_unconfined_seccomp_adjustment": True,
    "reject_custom_seccomp_adjustment": True,
    "reject_namespace_adjustment": True,
    "reject_sysctl_adjustment": True,
    "required_plugins": ["a"],
    "tolerate_missing_plugins_annotation": "key",
}


class TestConfig:
    def test_names_of_toml(self) -> None:
        config = DefaultValidatorConfig.parse(SETTINGS)
        assert vars(config) == {**SETTINGS, "required_plugins": ("a",)}

    def test_names_of_yaml(self) -> None:
        names = [
            "enable",
            "rejectOCIHookAdjustment",
            "rejectRuntimeDefaultSeccompAdjustment",
            "rejectUnconfinedSeccompAdjustment",
            "rejectCustomSeccompAdjustment",
            "rejectNamespaceAdjustment",
            "rejectSysctlAdjustment",
            "requiredPlugins",
            "tolerateMissingPluginsAnnotation",
        ]
        settings = dict(zip(names, SETTINGS.values()))
        assert DefaultValidatorConfig.parse(settings) == DefaultValidatorConfig.parse(SETTINGS)

    def test_nothing_is_set(self) -> None:
        assert DefaultValidatorConfig.parse({}) == DefaultValidatorConfig()

    def test_an_unknown_setting_is_an_error(self) -> None:
        with pytest.raises(ValueError, match="no setting 'rejectHooks'; it has enable, "):
            DefaultValidatorConfig.parse({"rejectHooks": True})

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("enable", "yes"),
            ("required_plugins", "a"),
            ("required_plugins", [1]),
            ("tolerate_missing_plugins_annotation", None),
        ],
    )
    def test_a_wrong_type_is_an_error(self, key: str, value: object) -> None:
        with pytest.raises(TypeError, match=f"{key} must be "):
            DefaultValidatorConfig.parse({key: value})

    def test_the_configuration_can_be_replaced(self) -> None:
        asked = request(Adjustment().add_hook("prestart", "/h"))
        validator = DefaultValidator(DefaultValidatorConfig())
        validator.validate_container_adjustment(asked)
        validator.config = DefaultValidatorConfig(reject_oci_hook_adjustment=True)
        with pytest.raises(ValueError, match="OCI hook"):
            validator.validate_container_adjustment(asked)


EVERYTHING = {
    "reject_oci_hook_adjustment": True,
    "reject_runtime_default_seccomp_adjustment": True,
    "reject_unconfined_seccomp_adjustment": True,
    "reject_custom_seccomp_adjustment": True,
    "reject_namespace_adjustment": True,
    "reject_sysctl_adjustment": True,
}
HOOK = Adjustment().add_hook("prestart", "/h")
SECCOMP = Adjustment().set_seccomp_policy(LinuxSeccomp(default_action="SCMP_ACT_LOG"))
PROFILES = [
    (None, "reject_unconfined_seccomp_adjustment", " unconfined"),
    (SecurityProfile.UNCONFINED, "reject_unconfined_seccomp_adjustment", " unconfined"),
    (
        SecurityProfile.RUNTIME_DEFAULT,
        "reject_runtime_default_seccomp_adjustment",
        "runtime default",
    ),
    (SecurityProfile.LOCALHOST, "reject_custom_seccomp_adjustment", " custom"),
]


class TestAdjustments:
    def test_by_default_all_are_accepted(self) -> None:
        both = Adjustment().set_sysctl("a", "1").set_namespace("pid")
        assert reason(request(HOOK, SECCOMP, both)) is None

    def test_adjustments_of_other_fields_are_accepted(self) -> None:
        asked = request(Adjustment().add_env("A", "1"), Adjustment().add_hooks(api.Hooks()))
        assert reason(asked, **EVERYTHING) is None

    def test_hooks(self) -> None:
        text = "validation error: {} attempted restricted OCI hook injection"
        assert reason(request(HOOK), reject_oci_hook_adjustment=True) == text.format(
            'plugin "10-a"'
        )
        assert reason(request(HOOK, HOOK), reject_oci_hook_adjustment=True) == text.format(
            'plugins "10-a,10-b"'
        )

    @pytest.mark.parametrize(("profile", "setting", "name"), PROFILES)
    def test_seccomp(self, profile: int | None, setting: str, name: str) -> None:
        asked = request(SECCOMP, profile=profile)
        assert reason(asked, **{setting: True}) == (
            f"validation error: plugin 10-a attempted restricted {name} seccomp policy adjustment"
        )
        assert reason(asked, **{**EVERYTHING, setting: False}) is None

    def test_namespaces(self) -> None:
        asked = request(Adjustment().set_namespace("pid"), Adjustment().remove_namespace("ipc"))
        assert reason(asked, reject_namespace_adjustment=True) == (
            "validation error: attempted restricted namespace adjustment by plugin(s)"
            ' "10-b" (namespace "ipc"), "10-a" (namespace "pid")'
        )

    def test_sysctl(self) -> None:
        asked = request(
            Adjustment().set_sysctl("a", "1").set_sysctl("c", "1"),
            Adjustment().set_sysctl("b", "1"),
        )
        assert reason(asked, reject_sysctl_adjustment=True) == (
            "validation error: attempted restricted sysctl adjustment by plugin(s) 10-a, 10-b, 10-a"
        )

    def test_removals_of_sysctls_pass(self) -> None:
        asked = request(Adjustment().remove_sysctl("a"))
        assert reason(asked, reject_sysctl_adjustment=True) is None

    def test_the_first_reason_counts(self) -> None:
        both = Adjustment().set_sysctl("a", "1").set_namespace("pid")
        config = {**EVERYTHING, "required_plugins": ["x"]}
        assert "OCI hook" in str(reason(request(both, SECCOMP, HOOK), **config))
        assert "seccomp" in str(reason(request(both, SECCOMP), **config))
        assert "namespace" in str(reason(request(both), **config))
        sysctl = request(Adjustment().set_sysctl("a", "1"))
        assert "required plugin" in str(reason(sysctl, **config))

    def test_without_an_adjustment_plugins_are_required_still(self) -> None:
        asked = request(HOOK)
        asked.ClearField("adjust")
        assert reason(asked, **EVERYTHING) is None
        assert reason(asked, required_plugins=["x"]) is not None


class TestRequiredPlugins:
    def test_names_with_and_without_index(self) -> None:
        asked = request(plugins=("a", "b"))
        assert reason(asked, required_plugins=["a", "10-b"]) is None
        assert reason(asked, required_plugins=["a", "c", "20-b"]) == (
            'validation error: required plugins "c,20-b" not present'
        )

    @pytest.mark.parametrize("form", ["", "/pod", "/container.web"])
    def test_a_pod_can_require_more(self, form: str) -> None:
        asked = request(annotations={api.REQUIRED_PLUGINS + form: '["c"]'}, plugins=("a",))
        assert reason(asked) == 'validation error: required plugin "c" not present'
        assert reason(asked, required_plugins=["b"]) == (
            'validation error: required plugins "b,c" not present'
        )

    def test_the_most_specific_annotation_counts(self) -> None:
        annotations = {
            api.REQUIRED_PLUGINS: "[c]",
            f"{api.REQUIRED_PLUGINS}/container.web": "[]",
            f"{api.REQUIRED_PLUGINS}/container.other": "[d]",
        }
        assert reason(request(annotations=annotations)) is None

    def test_an_annotation_that_is_not_a_list_is_rejected(self) -> None:
        asked = request(annotations={api.REQUIRED_PLUGINS: "{a: b}"})
        assert reason(asked) == (
            f'invalid {api.REQUIRED_PLUGINS} annotation "{{a: b}}": not a list of plugin names'
        )

    @pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
    def test_a_pod_can_do_without(self, value: str) -> None:
        annotations = {TOLERATE: value, api.REQUIRED_PLUGINS: "{no: list}"}
        asked = request(annotations=annotations)
        tolerant = {"tolerate_missing_plugins_annotation": TOLERATE}
        assert reason(asked, required_plugins=["x"], **tolerant) is None
        # Only if the annotation is one that the runtime knows.
        assert reason(asked, required_plugins=["x"]) is not None

    @pytest.mark.parametrize("value", ["0", "f", "F", "FALSE", "false", "False"])
    def test_a_pod_can_refuse_missing_plugins(self, value: str) -> None:
        asked = request(annotations={f"{TOLERATE}/container.web": value})
        tolerant = {"tolerate_missing_plugins_annotation": TOLERATE}
        assert reason(asked, required_plugins=["x"], **tolerant) is not None
        assert reason(asked, **tolerant) is None

    def test_anything_else_is_rejected(self) -> None:
        asked = request(annotations={TOLERATE: 'may"be'})
        assert reason(asked, tolerate_missing_plugins_annotation=TOLERATE) == (
            rf'invalid {TOLERATE} annotation "may\"be":'
            r' strconv.ParseBool: parsing "may\"be": invalid syntax'
        )
