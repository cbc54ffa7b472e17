"""The default validator as a plugin rejects the same changes as the runtime's built-in validator."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.default_validator.plugin import Validator
from nri_sync import api, kit
from nri_sync.errors import ConfigError
from nri_sync.runtime import DefaultValidatorConfig
from nri_sync.testing import FakeRuntime, StartPlugin, make_container, make_pod

__all__: list[str] = []


class Hooker:
    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_hook("poststop", "/bin/true")


@pytest.mark.parametrize("name", ["rejectOCIHookAdjustment", "reject_oci_hook_adjustment"])
def test_hooks(name: str, nri_runtime: FakeRuntime, nri_plugin: StartPlugin) -> None:
    validator = Validator()
    validator.config = kit.load(DefaultValidatorConfig.parse, f"{name}: true")
    nri_plugin(Hooker(), name="hooker", idx="10")
    nri_plugin(validator, name="validator", idx="99")
    pod = make_pod()
    nri_runtime.run_pod(pod)
    result = nri_runtime.create_container(pod, make_container(pod), check=False)
    assert 'plugin "10-hooker" attempted restricted OCI hook injection' in str(result.error)

    validator.config = DefaultValidatorConfig()
    assert nri_runtime.create_container(pod, make_container(pod)).adjustment.hooks.poststop


def test_a_required_plugin(nri_runtime: FakeRuntime, nri_plugin: StartPlugin) -> None:
    nri_plugin(Validator(), name="validator", idx="99")
    pod = make_pod(annotations={api.REQUIRED_PLUGINS: "[hooker]"})
    nri_runtime.run_pod(pod)
    result = nri_runtime.create_container(pod, make_container(pod), check=False)
    assert 'required plugin "hooker" not present' in str(result.error)
    nri_plugin(Hooker(), name="hooker", idx="10")
    assert nri_runtime.create_container(pod, make_container(pod)).error is None


def test_its_configuration() -> None:
    text = (Path(__file__).parents[2] / "examples/default_validator/config.yaml").read_text()
    assert kit.load(DefaultValidatorConfig.parse, text) != DefaultValidatorConfig()
    with pytest.raises(ConfigError, match="has no setting 'rejectEverything'"):
        kit.load(DefaultValidatorConfig.parse, "rejectEverything: true")
