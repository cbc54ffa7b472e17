"""``python -m nri_sync`` is the ``nri-sync`` command."""

from __future__ import annotations

import sys

from nri_sync.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
