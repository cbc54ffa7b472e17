"""``python -m tests.kubernetes`` builds the programs for the tests, which takes half an hour the first time."""

from __future__ import annotations

import sys
import time

from tests.kubernetes.build import build

__all__ = ["main"]


def main() -> int:
    began = time.monotonic()
    cached = build()
    print(f"{time.monotonic() - began:6.1f} s  in all, in {cached.directory}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
