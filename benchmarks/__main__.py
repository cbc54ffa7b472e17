"""``python -m benchmarks [--rounds N] [--quick] [--write FOLDER] [CASE ...]`` measures, and prints all aims at the
end."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from benchmarks import report
from benchmarks.cases import CASES
from benchmarks.measure import measure


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="cases to run (default: all)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (default: 5)")
    parser.add_argument("--quick", action="store_true", help="run the shorter form of long cases")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="write performance.md and plots there"
    )
    options = parser.parse_args()
    known = {case.name: case for case in CASES}
    unknown = [name for name in options.cases if name not in known]
    if unknown:
        parser.error(f"no such case: {', '.join(unknown)}; the cases are: {', '.join(known)}")
    outcomes = []
    for case in [known[name] for name in options.cases] or CASES:
        if options.quick and case.quick is not None:
            case = case.quick
        begin = time.monotonic()
        outcome = measure(case, options.rounds, lambda line: print(line, file=sys.stderr))
        outcomes.append(outcome)
        print(f"{case.name}: {time.monotonic() - begin:.0f} s", file=sys.stderr)
        print(f"\n{case.title}\n", *report.table(outcome), sep="\n", flush=True)
    print(f"\nAims, on {report.machine()}\n", *report.summary(outcomes), sep="\n", flush=True)
    if options.write is not None:
        folder = options.write / "performance"
        folder.mkdir(parents=True, exist_ok=True)
        pictures = [f"performance/{name}" for name in report.plots(outcomes, folder)]
        page = report.page(outcomes, options.rounds, pictures)
        (options.write / "performance.md").write_text(page)


if __name__ == "__main__":
    main()
