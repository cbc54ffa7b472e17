"""Runs plugins of NRI 0.1.0: programs that read JSON from standard input, listed in /etc/nri/conf.json."""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nri_sync import api, kit
from nri_sync.api import oci

__all__ = ["V010Adapter"]

logger = logging.getLogger("v010-adapter")

CONFIG = Path("/etc/nri/conf.json")
BINARIES = "/opt/nri/bin"
# The version for such plugins if the configuration has none.
VERSION = "0.1"
# The runtime's default timeout for an event.
TIMEOUT = 2.0
# The number of characters of a plugin's output in an error.
QUOTED = 300


class V010Adapter:
    """Runs plugins of NRI 0.1.0 when pods and containers start and stop."""

    def __init__(
        self, config: Path = CONFIG, binaries: str = BINARIES, timeout: float = TIMEOUT
    ) -> None:
        """``timeout`` is in seconds, for all plugins of one event together."""
        self.config_file = config
        self.timeout = timeout
        self.path = os.pathsep.join(filter(None, (os.environ.get("PATH"), binaries)))

    def run_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.invoke("create", pod, pod)

    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None:
        self.invoke("delete", pod, pod)

    def start_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        self.invoke("create", pod, container)

    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None:
        # The container stops in any case.
        try:
            self.invoke("delete", pod, container)
        except (ValueError, OSError) as error:
            logger.error("%s", error)

    def invoke(self, state: str, pod: api.PodSandbox, what: api.PodSandbox | api.Container) -> None:
        """Run the plugins one after the other. Raises ValueError or OSError if one fails."""
        try:
            config = json.loads(self.config_file.read_text())
        except FileNotFoundError:
            return
        except ValueError as error:
            raise ValueError(f"{self.config_file}: {error}") from None
        request: dict[str, Any] = {
            "version": config.get("version", VERSION),
            "state": state,
            "id": what.id,
            "sandboxID": pod.id,
            "pid": what.pid,
            "spec": specification(what),
            "labels": dict(pod.labels),
        }
        results: list[Any] = []
        deadline = time.monotonic() + self.timeout
        for plugin in config.get("plugins") or ():
            filled = {**request, "conf": plugin.get("conf"), "results": results}
            text = json.dumps({key: value for key, value in filled.items() if value})
            results.append(self.run(plugin["type"], text, deadline))

    def run(self, name: str, request: str, deadline: float) -> Any:
        program = shutil.which(name, path=self.path)
        if program is None:
            raise ValueError(f"plugin: {name}: there is no such program in {self.path}")
        with subprocess.Popen(
            [program, "invoke"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            text=True, errors="replace", start_new_session=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(request, max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                raise ValueError(
                    f"plugin: {name}: has not answered; all plugins together have {self.timeout:g} s"
                ) from None
            finally:
                # Kill its children, too.
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        try:
            result = kit.parse_json(output)
            if result.get("error"):
                raise ValueError(result["error"])
        except (ValueError, AttributeError) as error:
            code = f", exit code {process.returncode}" if process.returncode else ""
            raise ValueError(
                f"plugin: {name}: {error}; its output: {output[:QUOTED]!r}{code}"
            ) from None
        return result


def specification(what: api.PodSandbox | api.Container) -> dict[str, Any]:
    """Return the parts of an OCI specification that such plugins know."""
    found = {
        "namespaces": {each.type: each.path for each in what.linux.namespaces},
        "cgroupsPath": what.linux.cgroups_path,
        "annotations": dict(what.annotations),
    }
    resources = (
        oci.resources_to_oci(what.linux.resources) if what.linux.HasField("resources") else None
    )
    return {"resources": resources, **{key: value for key, value in found.items() if value}}


def main() -> int:
    """Run until the program is stopped."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--conf", type=Path, default=CONFIG, help=f"default {CONFIG}")
    parser.add_argument(
        "--bin-dir", default=BINARIES, help=f"searched after $PATH; default {BINARIES}"
    )
    parser.add_argument(
        "--plugin-timeout", type=float, default=TIMEOUT, metavar="SECONDS",
        help="for all plugins of one event together; default %(default)g",
    )  # fmt: skip
    kit.add_options(parser, name="v010-adapter", idx="10")
    parsed = parser.parse_args()
    return kit.run(
        V010Adapter(parsed.conf, parsed.bin_dir, parsed.plugin_timeout), kit.Options.of(parsed)
    )


if __name__ == "__main__":
    sys.exit(main())
