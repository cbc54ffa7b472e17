"""``python -m tests.e2e`` builds the programs for the tests, which takes minutes the first time."""

from __future__ import annotations

import os
import sys
import time

from tests.e2e.build import build
from tests.e2e.build_crio import build_crictl, build_crio
from tests.interop import gopeer

__all__ = ["main"]


def main() -> int:
    began = time.monotonic()
    tools = build()
    gopeer.build("stubplugin")
    build_crictl()
    if os.environ.get("NRI_SYNC_E2E_RUNTIME") == "crio":
        build_crio()
    print(f"{time.monotonic() - began:6.1f} s  in all, in {tools.directory}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
