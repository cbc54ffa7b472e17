"""Coverage-guided fuzzing of the parsers. From the root of the repository, with atheris installed::

    python -m tests.fuzz                                          every target, a minute each
    python -m tests.fuzz mux [LIBFUZZER OPTION ...] [CORPUS]      one target, until something is found

(``tox -e fuzz -- mux -max_total_time=600`` does the same in an environment of its own.)

Targets are the functions ``one_input`` of the modules ``fuzz_*`` beside this file. Those of the protocol compare
the package with a model of its own; those of texts and files take a value, or an error of the documented kind.
Each fails by an exception. An input that fails is left in ``cases/<target>`` beside
this file, where the ordinary tests replay it: mend the package, give the file a telling name, and commit
both. CORPUS is a directory that keeps interesting inputs from one run to the next;
``.cache/fuzz/<target>`` without it.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

__all__ = ["TARGETS", "main"]

TARGETS = ("mux", "ttrpc", "streams", "texts", "files")
# What is measured for coverage.
_CORE = ["nri_sync.wire"]
_INSTRUMENTED = {
    "texts": ["nri_sync.kit", "nri_sync.api", "nri_sync.text"],
    "files": ["nri_sync.kit", "nri_sync.testing", "examples.hook_injector"],
}
_CASES = Path(__file__).parent / "cases"
_CORPUS = Path(__file__).parents[2] / ".cache" / "fuzz"


def main(arguments: list[str]) -> int:
    """Fuzz as the command line says; the fuzzer ends the process itself where it finds something."""
    if not arguments:
        command = [sys.executable, "-m", "tests.fuzz"]
        return max(subprocess.call([*command, name, "-max_total_time=60"]) for name in TARGETS)
    name, *options = arguments
    if name not in TARGETS:
        print(f"no fuzz target {name!r}: there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    # By name: the fuzzer is not there on every Python on which the tests are checked.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=_INSTRUMENTED.get(name, _CORE)):
        target = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    cases, corpus = _CASES / name, _CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    # New inputs go to the first directory of the corpora; the others are only read.
    own = [] if any(not option.startswith("-") for option in options) else [str(corpus)]
    arguments = [name, f"-artifact_prefix={cases}/", *options, *own, str(cases)]
    atheris.Setup(arguments, target.one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
