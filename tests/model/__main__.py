"""The lifecycle in every order of its threads' steps: ``python -m tests.model [long]``.

Prints a row for each scenario, and each violation with the steps that lead there.
"""

from __future__ import annotations

import functools
import sys

from tests.model.ours import OurWorld, Package
from tests.model.scenarios import COARSE, FINE, LARGE, LARGE_LIMIT, LONG, Scenario
from tests.model.world import explore

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    package = Package()
    rows: list[tuple[Scenario, bool, int | None]]
    if arguments == ["long"]:
        rows = [(scenario, False, None) for scenario in LONG]
        rows += [(scenario, False, LARGE_LIMIT) for scenario in LARGE]
    else:
        rows = [(scenario, True, None) for scenario in FINE]
        rows += [(scenario, False, None) for scenario in COARSE]
    print("| threads | steps | states | transitions | longest | seconds | violations |")
    print("|---|---|--:|--:|--:|--:|--:|")
    total = [0, 0]
    wrong = 0
    for scenario, is_fine, limit in rows:
        make = functools.partial(OurWorld, package, scenario, is_fine=is_fine)
        result = explore(make, limit=limit)
        steps = "fine" if is_fine else "coarse"
        print(
            f"| {_cell(scenario)} | {steps} | {result.states:,} | {result.transitions:,} | {result.longest} |"
            f" {result.seconds:.1f} | {len(result.violations)} |",
            flush=True,
        )
        for text, path in result.violations.items():
            print(text, *path, sep="\n    ", file=sys.stderr)
        total[0] += result.states
        total[1] += result.transitions
        wrong += len(result.violations)
    print(f"| total | | {total[0]:,} | {total[1]:,} | | | {wrong} |")
    return int(wrong > 0)


def _cell(scenario: Scenario) -> str:
    return str(scenario).replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
