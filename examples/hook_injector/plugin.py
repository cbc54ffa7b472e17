"""Injects the OCI hooks that are described by files in directories, as Podman and CRI-O do."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nri_sync import api, kit
from nri_sync.errors import ConfigError

__all__ = ["Hook", "HookDirectories", "HookInjector", "read_hook"]

logger = logging.getLogger("hook-injector")
# A file in the second directory overrides the file of the same name in the first.
DIRECTORIES = (Path("/usr/share/containers/oci/hooks.d"), Path("/etc/containers/oci/hooks.d"))

# The runtime specification has replaced prestart by createRuntime.
STAGES: dict[str, api.HookStage] = {
    "createContainer": "create_container",
    "createRuntime": "create_runtime",
    "prestart": "create_runtime",
    "poststart": "poststart",
    "poststop": "poststop",
    "startContainer": "start_container",
}


_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    bool: "true or false",
}
# The characters that kit.parse_json() accepts.
_TEXT_MAX = 256 << 10


@dataclass(frozen=True)
class Hook:
    """A hook, its stages, and its conditions, as in oci-hooks(5)."""

    stages: Sequence[str]
    path: str
    args: Sequence[str] = ()
    env: Sequence[str] = ()
    timeout: int | None = None
    always: bool | None = None
    has_bind_mounts: bool | None = None
    annotations: Mapping[str, str] = field(default_factory=dict)
    commands: Sequence[str] = ()
    #: True for the old format: one condition is enough.
    any_of: bool = False
    _patterns: dict[str, kit.Pattern] = field(default_factory=dict, init=False, compare=False)

    def __post_init__(self) -> None:
        unknown = [stage for stage in self.stages if stage not in STAGES]
        if unknown:
            raise ValueError(f"unknown stage {unknown[0]!r}; known are {', '.join(STAGES)}")
        # Authors of pods write the texts, so matching must be fast for any text.
        for pattern in (*self.annotations, *self.annotations.values(), *self.commands):
            self._patterns[pattern] = kit.Pattern(pattern)
        if not os.path.exists(self.path):
            raise ValueError(f"{self.path}: there is no such program")
        # A mistake is found here, and not when a pod is created.
        self.add_to(api.Adjustment())

    def add_to(self, adjustment: api.Adjustment) -> None:
        """Inject the hook at each of its stages."""
        for stage in self.stages:
            adjustment.add_hook(
                STAGES[stage], self.path, args=self.args, env=self.env, timeout=self.timeout
            )

    def matches(
        self, args: Sequence[str], annotations: Mapping[str, str], has_bind_mounts: bool
    ) -> bool:
        """Return whether the hook applies. Raises ValueError if it depends on the command and there is none."""
        conditions = [
            any(self._is(key, k) and self._is(value, v) for k, v in annotations.items())
            for key, value in self.annotations.items()
        ]
        if self.always is not None:
            conditions.append(self.always)
        if self.has_bind_mounts is not None:
            conditions.append(self.has_bind_mounts and has_bind_mounts)
        if self.any_of and any(conditions):
            return True
        if not self.any_of and not all(conditions):
            return False
        if self.commands:
            if not args:
                raise ValueError("hook generation failed: the container has no arguments")
            return any(self._is(command, args[0]) for command in self.commands)
        return bool(conditions) and not self.any_of

    def _is(self, pattern: str, text: str) -> bool:
        return self._patterns[pattern].search(text)


def read_hook(path: Path) -> Hook:
    """Read a hook; ignores unknown keys. Raises ConfigError, which names the file, and OSError."""
    try:
        with path.open(encoding="utf-8") as file:
            data = _typed("the file", kit.parse_json(file.read(_TEXT_MAX + 1)), dict)
        version = data.get("version", "")
        if version == "1.0.0":
            return _current(data)
        if version in ("", "0.1.0"):
            return _old(data)
        raise ValueError(f"unrecognized hook version: {version!r}")
    except KeyError as error:
        raise ConfigError(str(path), (f"missing required property: {error.args[0]}",)) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(str(path), (str(error)[:500],)) from None


def _typed(name: str, value: Any, kind: type) -> Any:
    # True is an int for Python, and not for JSON.
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{name} must be {_KINDS[kind]}")
    return value


def _get(data: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    """Return a property; the default if it is null or missing."""
    value = data.get(name)
    return default if value is None else _typed(name, value, kind)


def _need(data: dict[str, Any], name: str, kind: type) -> Any:
    value = _get(data, name, kind)
    if value is None:
        raise KeyError(name)
    return value


def _texts(data: dict[str, Any], name: str) -> list[str]:
    return [_typed(f"an item of {name}", item, str) for item in _get(data, name, list, [])]


def _current(data: dict[str, Any]) -> Hook:
    hook, when = _need(data, "hook", dict), _get(data, "when", dict, {})
    annotations = _get(when, "annotations", dict, {})
    for value in annotations.values():
        _typed("a value of annotations", value, str)
    _need(data, "stages", list)
    return Hook(
        stages=_texts(data, "stages"),
        path=_need(hook, "path", str),
        args=_texts(hook, "args"),
        env=_texts(hook, "env"),
        timeout=_get(hook, "timeout", int),
        always=_get(when, "always", bool),
        has_bind_mounts=_get(when, "hasBindMounts", bool),
        annotations=annotations,
        commands=_texts(when, "commands"),
    )


def _old(data: dict[str, Any]) -> Hook:
    def listed(plural: str, singular: str) -> list[str]:
        if plural in data and singular in data:
            raise ValueError(f"cannot set both {singular!r} and {plural!r}")
        return _texts(data, plural if plural in data else singular)

    path, values = _need(data, "hook", str), listed("annotations", "annotation")
    stages = listed("stages", "stage")
    if not stages:
        _need(data, "stages", list)
    return Hook(
        stages=stages,
        path=path,
        args=[path, *_texts(data, "arguments")] if "arguments" in data else (),
        has_bind_mounts=_get(data, "hasbindmounts", bool),
        annotations={".*": "|".join(values)} if values else {},
        commands=listed("cmds", "cmd"),
        any_of=True,
    )


class HookDirectories:
    """The hooks of the files in directories. The constructor raises if a file is wrong."""

    def __init__(self, directories: Sequence[Path], watch: bool = True) -> None:
        self._directories = directories
        self._watch = watch
        self._state = self._look()
        self._hooks = self._read()

    def hooks(self) -> list[Hook]:
        """Return the hooks in the order of their file names. Reads the files again if one has changed."""
        if self._watch:
            state = self._look()
            if state != self._state:
                try:
                    self._hooks = self._read()
                    logger.info("read %d hooks", len(self._hooks))
                except (ConfigError, OSError) as error:
                    logger.error("the former hooks stay in use: %s", error)
                    if isinstance(error, OSError):
                        return self._hooks  # the next call reads the files again
                self._state = state
        return self._hooks

    def _files(self) -> dict[str, Path]:
        return {
            path.name: path
            for where in self._directories
            for path in sorted(where.glob("*.json"))
            if path.is_file()  # a named pipe would block
        }

    def _look(self) -> list[tuple[Path, int, int]]:
        found = []
        for path in self._files().values():
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                status = path.stat()
                found.append((path, status.st_mtime_ns, status.st_size))
        return found

    def _read(self) -> list[Hook]:
        files, hooks = self._files(), []
        for name in sorted(files, key=str.lower):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                hooks.append(read_hook(files[name]))
        return hooks


class HookInjector:
    """Injects the OCI hooks of files in directories into the containers that match their conditions."""

    def __init__(self, directories: HookDirectories) -> None:
        self.directories = directories

    def create_container(
        self, pod: api.PodSandbox, container: api.Container
    ) -> api.Adjustment | None:
        own = {k: v for k, v in container.annotations.items() if k.startswith("io.kubernetes.")}
        # A pod must not change the keys of the runtime and the kubelet.
        annotations = {**container.annotations, **pod.annotations, **own}
        has_bind_mounts = any(mount.type == "bind" for mount in container.mounts)
        adjustment = api.Adjustment()
        for hook in self.directories.hooks():
            if hook.matches(container.args, annotations, has_bind_mounts):
                logger.info("%s at %s", hook.path, ", ".join(hook.stages))
                hook.add_to(adjustment)
        return adjustment if adjustment.message.HasField("hooks") else None


def main() -> int:
    """Run until the program is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--hooks-dir", type=Path, action="append", metavar="DIRECTORY",
        help=f"a directory with hooks; later ones override; default {', '.join(map(str, DIRECTORIES))}",
    )  # fmt: skip
    parser.add_argument("--disable-watch", action="store_true", help="read the hooks only once")
    kit.add_options(parser, name="hook-injector", idx="10")
    parsed = parser.parse_args()
    directories = parsed.hooks_dir or DIRECTORIES

    def plugin() -> HookInjector:
        return HookInjector(HookDirectories(directories, watch=not parsed.disable_watch))

    return kit.run(plugin, kit.Options.of(parsed))


if __name__ == "__main__":
    sys.exit(main())
