"""The plugin answers at once, and the hook waits. The tests run the hook as a runtime does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples.slow_hook.plugin import Config, SlowHook
from nri_sync import api
from nri_sync.testing import FakeRuntime, Result, StartPlugin, make_container, make_pod

__all__: list[str] = []

KEY = "set.data.example.com"
# Waits for a file beside the directory of the set. The file has the exit code.
SLOW = """
import pathlib, sys, time
name, directory = sys.argv[1:]
ready = pathlib.Path(directory).with_name(name + ".ready")
while not ready.exists():
    time.sleep(0.01)
pathlib.Path(directory, "data").write_text(name)
with open(pathlib.Path(directory).with_name("log"), "a") as log:
    log.write(name + "\\n")
sys.exit(int(ready.read_text() or 0))
"""


@pytest.fixture
def config(tmp_path: Path) -> Config:
    data, outcomes = tmp_path / "data", tmp_path / "outcomes"
    return Config([sys.executable, "-c", SLOW], ["*"], data=data, outcomes=outcomes, timeout=20)


def new_plugin(config: Config) -> SlowHook:
    plugin = SlowHook()
    plugin.on_config(config)
    plugin.config = config
    return plugin


@pytest.fixture
def plugin(config: Config) -> Iterator[SlowHook]:
    plugin = new_plugin(config)
    yield plugin
    plugin.on_stop()


def done(config: Config, name: str = "weather", code: str = "0") -> None:
    """Let the fetching of a set end."""
    beside = config.data / f"{name}.new"
    beside.write_text(code)
    beside.rename(config.data / f"{name}.ready")


def run_hook(result: Result) -> subprocess.Popen[str]:
    (hook,) = result.adjustment.hooks.create_runtime
    environment = dict(entry.split("=", 1) for entry in hook.env)
    return subprocess.Popen(
        hook.args, executable=hook.path, env=environment, stderr=subprocess.PIPE, text=True
    )


def outcome_of(hook: subprocess.Popen[str]) -> tuple[int, str]:
    _, said = hook.communicate(timeout=30)
    return hook.returncode, said


def create(runtime: FakeRuntime, name: str = "weather") -> tuple[api.Container, Result]:
    pod = make_pod(annotations={KEY: name})
    runtime.run_pod(pod)
    container = make_container(pod)
    return container, runtime.create_container(pod, container)


def test_the_hook_waits(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: SlowHook, config: Config
) -> None:
    nri_plugin(plugin)
    container, created = create(nri_runtime)  # at once, without the data
    mount = created.mounts["/data"]
    assert mount is not None
    assert (mount.source, "ro" in mount.options) == (str(config.data / "weather"), True)
    hook = run_hook(created)
    _, other = create(nri_runtime)
    assert hook.poll() is None
    done(config)
    assert outcome_of(hook) == outcome_of(run_hook(other)) == (0, "")
    assert Path(mount.source, "data").read_text() == "weather"
    # Fetched once for both, and for later containers.
    assert outcome_of(run_hook(create(nri_runtime)[1])) == (0, "")
    assert (config.data / "log").read_text() == "weather\n"
    nri_runtime.remove_container(container)
    assert len(list(config.outcomes.iterdir())) == 2


def test_a_failed_download_fails_the_hook(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: SlowHook, config: Config
) -> None:
    nri_plugin(plugin)
    _, created = create(nri_runtime)
    done(config, code="7")
    code, said = outcome_of(run_hook(created))
    assert (code, "the data are missing" in said, "exit status 7" in said) == (1, True, True)
    # The next container tries again.
    done(config, code="0")
    assert outcome_of(run_hook(create(nri_runtime)[1])) == (0, "")


def test_the_hook_does_not_wait_for_ever(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: SlowHook, config: Config
) -> None:
    nri_plugin(plugin)
    config.timeout = 1
    _, created = create(nri_runtime)
    code, said = outcome_of(run_hook(created))
    # Either the command is too late, or the hook.
    assert code == 1
    assert "in time" in said or "timed out" in said


def test_pods_without_an_annotation_or_with_an_invalid_one(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: SlowHook
) -> None:
    nri_plugin(plugin)
    for asked_for, wrong in (({}, False), ({KEY: "../etc"}, True)):
        pod = make_pod(annotations=asked_for)
        nri_runtime.run_pod(pod)
        result = nri_runtime.create_container(pod, make_container(pod), check=False)
        assert result.empty
        assert (KEY in str(result.error)) == wrong


def test_the_plugin_is_restarted_while_a_hook_waits(
    nri_runtime: FakeRuntime, config: Config
) -> None:
    first = new_plugin(config)
    config.timeout = 0.2
    with nri_runtime.run_plugin(first):
        pod = make_pod(annotations={KEY: "weather"})
        nri_runtime.run_pod(pod)
        container = make_container(pod)
        created = nri_runtime.create_container(pod, container)
    first.on_stop()
    config.timeout = 20
    # As after a kill: no outcome.
    (config.outcomes / container.id).unlink(missing_ok=True)
    (hook,) = created.adjustment.hooks.create_runtime
    hook.args[-1] = "200"
    waiting = run_hook(created)
    second = new_plugin(config)
    try:
        with nri_runtime.run_plugin(second):
            assert waiting.poll() is None
            done(config)
            assert outcome_of(waiting) == (0, "")
    finally:
        second.on_stop()


def test_an_invalid_annotation_of_an_existing_pod(
    nri_runtime: FakeRuntime, nri_plugin: StartPlugin, plugin: SlowHook
) -> None:
    pod = make_pod(annotations={KEY: "../etc"})
    nri_runtime.add(pod, make_container(pod))
    nri_plugin(plugin)
    assert nri_runtime.plugins == ("10-test",)


def test_sets_that_pods_may_not_have(plugin: SlowHook, config: Config) -> None:
    config.sets = ["weather*"]
    pod = make_pod(annotations={KEY: "secrets"})
    container = make_container(pod)
    with pytest.raises(PermissionError, match="the data set 'secrets' is not among those"):
        plugin.create_container(pod, container)
    # A container from before the list was shortened does not fail the synchronization.
    plugin.synchronize([pod], [container])
    assert not (config.data / "secrets").exists()
