"""A plugin that keeps nothing of the node's state, as a program.

``python -m benchmarks.program stub SOCKET`` has a stub only; with ``kit`` for ``stub`` it uses the toolkit.
"""

from __future__ import annotations

import sys

import nri_sync
from benchmarks.adjuster import Adjuster
from nri_sync.api import nri_pb2

__all__ = ["main"]


class _Forgetful(Adjuster):
    def synchronize(
        self, pods: list[nri_pb2.PodSandbox], containers: list[nri_pb2.Container]
    ) -> None:
        pass


def main(kind: str, path: str) -> None:
    plugin = _Forgetful(3, 2, 0)
    if kind == "stub":
        nri_sync.Stub(plugin, name="bench", idx="10", socket_path=path).run()
    else:
        from nri_sync import kit

        options = ["--socket", path, "--log-level", "error"]
        kit.main(plugin, argv=options, name="bench", idx="10")


if __name__ == "__main__":
    main(*sys.argv[1:])
