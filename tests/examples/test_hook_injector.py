"""Reading files of hooks, also again after changes; test_reference.py has the injected hooks."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from examples.hook_injector import plugin as module
from examples.hook_injector.plugin import Hook, HookDirectories, HookInjector, read_hook
from nri_sync import api
from nri_sync.errors import ConfigError
from nri_sync.testing import make_container, make_pod

__all__: list[str] = []

HOOK = {
    "version": "1.0.0",
    "hook": {"path": "/bin/true"},
    "when": {"always": True},
    "stages": ["poststop"],
}


def written(path: Path, **changes: Any) -> Path:
    data = {**HOOK, **changes}
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
    return path


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hook": None}, "missing required property: hook"),
        ({"hook": {}}, "missing required property: path"),
        ({"stages": None}, "missing required property: stages"),
        ({"stages": ["later"]}, "unknown stage 'later'; known are createContainer"),
        ({"hook": {"path": "/no/such"}}, "/no/such: there is no such program"),
        ({"version": "2.0.0"}, "unrecognized hook version: '2.0.0'"),
        ({"when": {"commands": ["["]}}, "invalid pattern '\\['"),
        (
            {"version": None, "hook": "/bin/true", "cmd": ["a"], "cmds": ["a"]},
            "cannot set both 'cmd' and 'cmds'",
        ),
        (
            {"version": None, "hook": "/bin/true", "stages": None},
            "missing required property: stages",
        ),
        ({"version": None, "hook": None}, "missing required property: hook"),
        ({"when": "always"}, "when must be an object"),
        ({"hook": ["/bin/true"]}, "hook must be an object"),
        ({"hook": {"path": 5}}, "path must be a text"),
        ({"hook": {"path": "bin"}}, "bin: there is no such program"),
        ({"hook": {"path": "."}}, "hook path '.' is not an absolute path"),
        ({"hook": {"path": "/" + "a" * 5000}}, "there is no such program|/aaa"),
        ({"hook": {"path": "/bin/true", "args": "-v"}}, "args must be a list"),
        ({"hook": {"path": "/bin/true", "args": [None]}}, "an item of args must be a text"),
        ({"hook": {"path": "/bin/true", "env": {"A": "b"}}}, "env must be a list"),
        ({"hook": {"path": "/bin/true", "args": ["\0"]}}, "has a NUL character"),
        ({"hook": {"path": "/bin/true", "timeout": True}}, "timeout must be a whole number"),
        ({"hook": {"path": "/bin/true", "timeout": 1.5}}, "timeout must be a whole number"),
        ({"hook": {"path": "/bin/true", "timeout": 1 << 70}}, "timeout"),
        ({"when": {"always": "false"}}, "always must be true or false"),
        ({"when": {"hasBindMounts": 0}}, "hasBindMounts must be true or false"),
        ({"when": {"annotations": {"a": 1}}}, "a value of annotations must be a text"),
        ({"when": {"annotations": ["a"]}}, "annotations must be an object"),
        ({"when": {"commands": "sh"}}, "commands must be a list"),
        ({"stages": "poststop"}, "stages must be a list"),
        ({"version": None, "hook": {"path": "/bin/true"}}, "hook must be a text"),
        ({"version": None, "hook": "/bin/true", "cmds": "a"}, "cmds must be a list"),
        ({"version": "9" * 100_000}, "unrecognized hook version"),
        ({"when": {"commands": ["(?=a)"]}}, "this kind of group is not supported"),
        ({"when": {"commands": [5]}}, ""),
    ],
)
def test_mistakes(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    path = written(tmp_path / "hook.json", **changes)
    with pytest.raises(ValueError, match=f"^{path}: .*{says}") as caught:
        read_hook(path)
    assert len(str(caught.value)) < 1000


def test_null_is_as_nothing(tmp_path: Path) -> None:
    path = written(
        tmp_path / "hook.json", hook={"path": "/bin/true", "args": None, "timeout": None}
    )
    assert read_hook(path) == Hook(["poststop"], "/bin/true", [], [], always=True, commands=[])


@pytest.mark.parametrize("data", [b"[]", b"null", b"5", b"\xff{}", b'{"hook": NaN}', b"{} {}"])
def test_files_that_are_no_object(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "hook.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError):
        read_hook(path)


def test_a_large_file_is_not_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "hook.json"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="more than the 262,144 bytes"):
        read_hook(path)


def test_a_file_that_vanishes_or_cannot_be_read_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path / "a.json")
    gone = written(tmp_path / "b.json")
    errors: list[type[OSError]] = [FileNotFoundError]

    def read(path: Path) -> Hook:
        if path == gone and errors:
            raise errors.pop()
        return read_hook(path)

    monkeypatch.setattr(module, "read_hook", read)
    directories = HookDirectories([tmp_path])
    assert len(directories.hooks()) == 1
    written(gone, stages=["poststop", "poststart"])
    errors.append(OSError)
    assert len(directories.hooks()) == 1
    assert "the former hooks stay in use" in caplog.text
    # The file has not changed, and is read again.
    assert len(directories.hooks()) == 2


@pytest.mark.parametrize(
    ("when", "matches"),
    [
        ({}, False),
        ({"always": True}, True),
        ({"always": False}, False),
        ({"has_bind_mounts": True}, True),
        ({"has_bind_mounts": False}, False),
        ({"annotations": {"^a$": "^1$"}}, True),
        ({"annotations": {"^a$": "^2$"}}, False),
        ({"annotations": {"^a$": "^1$"}, "commands": ["sh$"]}, True),
        ({"annotations": {"^a$": "^1$"}, "commands": ["bash$"]}, False),
        ({"annotations": {"^a$": "^2$"}, "commands": ["sh$"]}, False),
        ({"annotations": {"^a$": "^2$"}, "commands": ["sh$"], "any_of": True}, True),
        ({"annotations": {"^a$": "^1$"}, "commands": ["bash$"], "any_of": True}, True),
        ({"annotations": {"^a$": "^2$"}, "any_of": True}, False),
    ],
)
def test_conditions(when: dict[str, Any], matches: bool) -> None:
    hook = Hook(stages=["poststop"], path="/bin/true", **when)
    assert hook.matches(["/bin/sh"], {"a": "1", "b": "2"}, has_bind_mounts=True) is matches


def test_only_bind_mounts_count(tmp_path: Path) -> None:
    written(tmp_path / "a.json", when={"hasBindMounts": True})
    plugin = HookInjector(HookDirectories([tmp_path]))
    pod = make_pod()
    container = make_container(pod)
    kept = [mount for mount in container.mounts if mount.type != "bind"]
    del container.mounts[:]
    container.mounts.extend(kept)
    assert kept
    assert plugin.create_container(pod, container) is None
    container.mounts.append(api.Mount(destination="/data", type="bind", source="/srv"))
    assert plugin.create_container(pod, container) is not None


def test_the_later_directory_counts_and_the_order_is_that_of_names(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    for where, names in ((first, "aB"), (second, "b c B")):
        where.mkdir()
        for name in names.replace(" ", ""):
            written(where / f"{name}.json", hook={"path": "/bin/true", "args": [where.name + name]})
    (second / "README").write_text("no hook")
    hooks = HookDirectories([first, second, tmp_path / "missing"]).hooks()
    assert [hook.args for hook in hooks] in (  # "b" and "B" may come in either order
        [["1a"], ["2b"], ["2B"], ["2c"]],
        [["1a"], ["2B"], ["2b"], ["2c"]],
    )


@pytest.mark.parametrize("watch", [True, False])
def test_changes(watch: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directories = HookDirectories([tmp_path], watch=watch)
    assert directories.hooks() == []
    written(tmp_path / "a.json")
    assert len(directories.hooks()) == watch
    (tmp_path / "b.json").write_text("{")
    assert len(directories.hooks()) == watch
    assert ("the former hooks stay in use" in caplog.text) is watch
    written(tmp_path / "b.json")
    assert len(directories.hooks()) == 2 * watch


def test_a_mistake_at_first_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(ValueError, match=r"a\.json"):
        HookDirectories([tmp_path])


def test_a_pod_cannot_forge_the_annotations_of_the_runtime(tmp_path: Path) -> None:
    kind = "io.kubernetes.cri.container-type"
    written(tmp_path / "a.json", when={"annotations": {f"^{re.escape(kind)}$": "^container$"}})
    plugin = HookInjector(HookDirectories([tmp_path]))
    for forged in ({}, {kind: "sandbox"}):
        pod = make_pod(annotations=forged)
        assert plugin.create_container(pod, make_container(pod)) is not None
    pod = make_pod(annotations={kind: "container"})
    container = make_container(pod, annotations={kind: "other"})
    assert plugin.create_container(pod, container) is None


def test_a_pod_s_author_cannot_take_the_plugin_s_time() -> None:
    hook = Hook(stages=["poststop"], path="/bin/true", annotations={"^a$": "^([a-z]+)+$"})
    before = time.process_time()
    assert not hook.matches([], {"a": "x" * 250_000 + "!"}, has_bind_mounts=False)
    assert time.process_time() - before < 20


def test_the_end_is_not_before_a_last_line_feed() -> None:
    hook = Hook(stages=["poststop"], path="/bin/true", annotations={"^a$": "^yes$"})
    assert hook.matches([], {"a": "yes"}, has_bind_mounts=False)
    assert not hook.matches([], {"a": "yes\n"}, has_bind_mounts=False)


def test_a_pipe_is_ignored_and_deep_nesting_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    assert HookDirectories([tmp_path]).hooks() == []
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(ConfigError, match=r"deep\.json: .*nested too deeply"):
        HookDirectories([tmp_path])
