"""Records the answers of the Go plugins: ``python -m tests.interop.record DIRECTORY``.

The directory has the plugins, each built from its own Go module in the folder ``plugins`` of the Go repository.
These modules are not published, so ``tests/examples/reference.json`` keeps the answers. Needs root, for a
directory of hooks.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.examples.cases import CASES, OPTIONS, REFERENCE, Case, as_recorded, files
from tests.interop.gopeer import PeerError
from tests.interop.goruntime import RELEASES, GoRuntime

__all__ = ["answer", "main"]

# The Go hook-injector reads this directory only.
HOOKS_DIR = "/etc/containers/oci/hooks.d"


def answer(runtime: GoRuntime, case: Case) -> dict[str, Any]:
    pod, container = case.messages()
    try:
        reply = runtime.request("CreateContainer", pod=pod, container=container)
    except PeerError as error:
        return {"error": str(error)}
    return {"adjust": as_recorded(reply.adjust)}


def command(plugins: Path, example: str, scratch: Path) -> list[str]:
    name = example.replace("_", "-")
    files(scratch)
    hooks = scratch / "HOOKS"
    if example == "hook_injector":
        script = f"mkdir -p {HOOKS_DIR} && mount --bind {hooks} {HOOKS_DIR} && exec {plugins / name} -idx 10"
        return ["unshare", "--mount", "sh", "-c", f"{script} -socket-path {scratch / 's'}"]
    options = [
        str(scratch / "MOUNTINFO") if text == "MOUNTINFO" else text
        for text in OPTIONS.get(example, ())
    ]
    socket = "-socket" if example in ("template", "ulimit_adjuster") else "-socket-path"
    more = [] if example == "rdt" else [socket, str(scratch / "s")]
    return [str(plugins / name), "-idx", "10", *options, *more]


def main(plugins: Path) -> None:
    found: dict[str, Any] = {}
    for example, cases in CASES.items():
        with tempfile.TemporaryDirectory(prefix="nri") as directory:
            scratch = Path(directory)
            path = Path("/var/run/nri/nri.sock") if example == "rdt" else scratch / "s"
            path.parent.mkdir(exist_ok=True)
            with GoRuntime(RELEASES[0], path) as runtime:
                runtime.start()
                plugin = subprocess.Popen(command(plugins, example, scratch))
                try:
                    runtime.wait_connected(f"10-{example.replace('_', '-')}")
                    found[example] = {name: answer(runtime, case) for name, case in cases.items()}
                finally:
                    plugin.terminate()
                    plugin.wait()
    REFERENCE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
