"""``python -m tests.e2e`` builds what the tests run, which takes minutes the first time."""

from __future__ import annotations

import sys
import time

from tests.e2e.build import build
from tests.interop import gopeer

__all__ = ["main"]


def main() -> int:
    began = time.monotonic()
    tools = build()
    gopeer.build("stubplugin")
    print(f"{time.monotonic() - began:6.1f} s  in all, in {tools.directory}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
