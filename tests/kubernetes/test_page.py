"""The commands of docs/images.md, unchanged."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.kubernetes.cluster import Cluster

__all__: list[str] = []

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "images.md"


def commands() -> str:
    """A script with all commands after a prompt on the page."""
    blocks = re.findall(r"^```console cluster\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    lines = [line for block in blocks for line in block.splitlines()]
    assert all(line.startswith(("$ ", "> ")) for line in lines)
    return "\n".join(line[2:] for line in lines)


@pytest.mark.timeout(900)
def test_the_commands_work(cluster: Cluster, tmp_path: Path) -> None:
    for name in ("tools", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    # The socket of this node is elsewhere.
    script = commands().replace("/run/k3s/nri", str(cluster.nri_socket.parent))
    done = subprocess.run(
        ["sh", "-eux", "-c", script],
        cwd=tmp_path, env=cluster.environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("successfully rolled out") == 2
