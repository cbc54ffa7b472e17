"""Coverage-guided fuzzing of the parsers. From the root of the repository, with atheris installed::

    python -m tests.fuzz                                          every target, a minute each
    python -m tests.fuzz mux [LIBFUZZER OPTION ...] [CORPUS]      one target, until an input fails

(``tox -e fuzz -- mux -max_total_time=600`` does the same in a separate environment.)

A target is the function ``one_input`` of a module ``fuzz_*`` in this directory. Targets of the protocol compare
the package with a model. Targets of texts and files expect a value, or an error of the documented kind. Targets of
a whole side use sockets. A target fails by an exception. The fuzzer writes a failing input to ``cases/<target>``
in this directory, where the ordinary tests replay it. Then fix the package, give the file a descriptive name, and
commit both. CORPUS is a directory that keeps interesting inputs for the next run; the default is
``.cache/fuzz/<target>``.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

__all__ = ["TARGETS", "main"]

TARGETS = ("mux", "ttrpc", "streams", "texts", "files", "node", "plugin", "runtime")
# The packages whose coverage is measured.
_CORE = ["nri_sync.wire"]
_INSTRUMENTED = {
    "texts": ["nri_sync.kit", "nri_sync.api", "nri_sync.text"],
    "files": ["nri_sync.kit", "nri_sync.testing", "examples.hook_injector"],
    "node": ["nri_sync.cli", "nri_sync.kit", "nri_sync.plugin", "nri_sync.runtime"],
    "plugin": ["nri_sync"],
    "runtime": ["nri_sync"],
}
_CASES = Path(__file__).parent / "cases"
_CORPUS = Path(__file__).parents[2] / ".cache" / "fuzz"


def main(arguments: list[str]) -> int:
    """Fuzz for the command line. If an input fails, the fuzzer ends the process."""
    if not arguments:
        command = [sys.executable, "-m", "tests.fuzz"]
        return max(subprocess.call([*command, name, "-max_total_time=60"]) for name in TARGETS)
    name, *options = arguments
    if name not in TARGETS:
        print(f"no fuzz target {name!r}: there are {', '.join(TARGETS)}", file=sys.stderr)
        return 2
    # Imported by name: atheris is not available for every Python that checks the tests.
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=_INSTRUMENTED.get(name, _CORE)):
        target = importlib.import_module(f"tests.fuzz.fuzz_{name}")
    cases, corpus = _CASES / name, _CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    # The fuzzer writes new inputs to the first corpus directory, and only reads the others.
    own = [] if any(not option.startswith("-") for option in options) else [str(corpus)]
    arguments = [name, f"-artifact_prefix={cases}/", *options, *own, str(cases)]
    atheris.Setup(arguments, target.one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
