"""``python -m tests.ttrpc.probes grpcio|ttrpc`` prints one JSON object: the result of each probe, by its row.

Each runs in a new process, since the core of gRPC leaves threads behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys

from tests.ttrpc.probes import PROBES
from tests.ttrpc.probes.pair import Pair

__all__ = ["main"]


def main(kind: str) -> int:
    results = {}
    for (section, row), function in PROBES.items():
        with contextlib.ExitStack() as stack:
            try:
                results[f"{section}: {row}"] = function(Pair(kind, stack))
            except Exception as error:
                results[f"{section}: {row}"] = f"the probe failed: {error!r}"
    print(json.dumps(results), flush=True)
    # The core of gRPC takes its time to end.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
