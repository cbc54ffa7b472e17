"""``python -m tests.interop`` builds every peer ahead of the tests, which have a minute each."""

from __future__ import annotations

import sys

from tests.interop.gopeer import HERE, build

__all__ = ["main"]


def main() -> int:
    """Build the peers one by one, as the compiler itself uses all processors."""
    for source in sorted(HERE.iterdir()):
        # The others are libraries of these.
        if (source / "main.go").exists() or list(source.glob("*.c")):
            print(build(source.name).name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
