"""``python -m tests.ttrpc.probes grpcio|ttrpc`` prints one JSON object: the result of each probe, by its row.

Each runs in a new process, since the core of gRPC leaves threads behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from concurrent import futures

from tests.ttrpc.probes import PROBES
from tests.ttrpc.probes.pair import WAITING, Pair

__all__ = ["main"]


def main(kind: str) -> int:
    results = {}

    def run(key: tuple[str, str]) -> None:
        with contextlib.ExitStack() as stack:
            try:
                result = PROBES[key](Pair(kind, stack))
            except Exception as error:
                result = f"the probe failed: {error!r}"
        results[": ".join(key)] = result

    with futures.ThreadPoolExecutor(len(WAITING)) as pool:
        list(pool.map(run, WAITING))
    for key in PROBES:
        if key not in WAITING:
            run(key)
    print(json.dumps(results), flush=True)
    # The core of gRPC takes its time to end.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
