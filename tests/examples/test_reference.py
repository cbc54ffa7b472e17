"""The examples give the answers of the reference's plugins that they replace, on the embedded runtime."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.device_injector.plugin import Config as DeviceConfig
from examples.device_injector.plugin import DeviceInjector
from examples.hook_injector.plugin import HookDirectories, HookInjector
from examples.logger.plugin import Config, Logger
from examples.rdt.plugin import Config as RdtConfig
from examples.rdt.plugin import Rdt
from examples.template.plugin import Template
from examples.ulimit_adjuster.plugin import Config as UlimitConfig
from examples.ulimit_adjuster.plugin import UlimitAdjuster
from examples.writable_cgroups.plugin import WritableCgroups
from nri_sync import kit
from nri_sync.testing import FakeRuntime, StartPlugin
from tests.examples.cases import CASES, OPTIONS, Case, as_recorded, files, recorded

__all__: list[str] = []

PLUGINS: dict[str, Callable[[Path], Any]] = {
    "device_injector": lambda scratch: configured(
        DeviceInjector(), DeviceConfig, scratch / "device_injector.json"
    ),
    "hook_injector": lambda scratch: HookInjector(HookDirectories([scratch / "HOOKS"])),
    "logger": lambda scratch: Logger(logger_options()),
    "rdt": lambda scratch: configured(Rdt(), RdtConfig, scratch / "rdt.json"),
    "template": lambda scratch: Template(),
    "ulimit_adjuster": lambda scratch: configured(
        UlimitAdjuster(), UlimitConfig, scratch / "ulimit_adjuster.json"
    ),
    "writable_cgroups": lambda scratch: WritableCgroups(scratch / "MOUNTINFO", ["*"]),
}


def configured(plugin: Any, config: type[Any], file: Path) -> Any:
    plugin.config = kit.load(config, file)
    return plugin


def logger_options() -> Config:
    parser = argparse.ArgumentParser()
    for option in OPTIONS["logger"][::2]:
        parser.add_argument(option)
    return Config(**vars(parser.parse_args(OPTIONS["logger"])))


def answer(runtime: FakeRuntime, case: Case) -> dict[str, Any]:
    pod, container = case.messages()
    runtime.add(pod)
    result = runtime.create_container(pod, container, check=False)
    if result.error is not None:
        return {"error": str(result.error)}
    return {"adjust": as_recorded(result.adjustment)}


def test_every_example_with_cases_is_compared() -> None:
    assert PLUGINS.keys() == CASES.keys()


@pytest.mark.parametrize("example", CASES)
def test_the_same_answers(
    example: str, nri_runtime: FakeRuntime, nri_plugin: StartPlugin, tmp_path: Path
) -> None:
    files(tmp_path)
    nri_plugin(PLUGINS[example](tmp_path))
    expected = recorded(example)
    assert expected.keys() == CASES[example].keys()
    for name, case in CASES[example].items():
        found = answer(nri_runtime, case)
        if "error" in expected[name]:
            # The words differ, but both are errors.
            assert "error" in found, f"{name}: {found}"
        else:
            assert found == expected[name], name
