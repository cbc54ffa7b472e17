"""The documentation works: examples run, commands print the documented output, links have targets.

A ``python`` block of README.md or docs/ is executed. The blocks of one page run in order and share a
namespace, like the cells of a notebook; the current directory is an empty one. A block that opens
with ```` ```python no-run ```` is only compiled, as is one that opens with ```` ```python needs=package ````
where the package is not installed. In a ``console run`` block each ``$`` line is
run by the shell. It must succeed and print the lines after it; ``...`` stands for any text.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import inspect
import os
import re
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest

__all__: list[str] = []

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [page for page in PAGES if "_build" not in page.parts]

BLOCK = re.compile(
    r"^(?P<fence>`{3,})(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=fence)[ ]*$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\((?P<target>[^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: the words after the fence, the line number of its text, and the text."""

    info: list[str]
    line: int
    body: str


def blocks(text: str, language: str) -> list[Block]:
    """The fenced blocks of a page in ``language``."""
    found = []
    for match in BLOCK.finditer(text):
        info = match["info"].split()
        if info[:1] == [language]:
            found.append(Block(info, text.count("\n", 0, match.start("body")) + 1, match["body"]))
    return found


def pages_with(language: str, *words: str) -> list[Path]:
    return [
        page
        for page in PAGES
        if any(set(words) <= set(block.info) for block in blocks(page.read_text(), language))
    ]


def page_id(page: object) -> str:
    return str(page.relative_to(ROOT)) if isinstance(page, Path) else str(page)


def missing(block: Block) -> list[str]:
    """The missing packages that a block needs. An environment with all packages has none."""
    needed = [word[len("needs=") :] for word in block.info if word.startswith("needs=")]
    if os.environ.get("NRI_SYNC_RECIPES"):
        return []
    return [package for package in needed if importlib.util.find_spec(package) is None]


@pytest.mark.parametrize("page", pages_with("python"), ids=page_id)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # The module needs a spec, because tracebacks of Python 3.15 look for one.
    module = module_from_spec(ModuleSpec(f"page_{page.stem}", None))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    left_out: set[str] = set()
    for block in blocks(page.read_text(), "python"):
        # Empty lines in front make a traceback show the line of the page.
        code = compile("\n" * (block.line - 1) + block.body, str(page), "exec", dont_inherit=True)
        left_out.update(missing(block))
        if "no-run" not in block.info and not missing(block):
            exec(code, module.__dict__)
    if left_out:
        pytest.skip(f"without {', '.join(sorted(left_out))}; tox -e recipes has all")


@pytest.mark.parametrize("page", pages_with("console", "run"), ids=page_id)
def test_console_prints_the_output_of_the_page(page: Path, tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    for block in blocks(page.read_text(), "console"):
        if "run" not in block.info:
            continue
        for step in re.split(r"^\$ ", block.body, flags=re.MULTILINE)[1:]:
            command, _, expected = step.partition("\n")
            done = subprocess.run(
                command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path},
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            )  # fmt: skip
            where = f"{page_id(page)}:{block.line}: $ {command}"
            assert done.returncode == 0, f"{where}\n{done.stdout}"
            assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS), (
                f"{where}\nprinted:\n{done.stdout}\ninstead of:\n{expected}"
            )


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for match in LINK.finditer(BLOCK.sub("", page.read_text())):
        target = match["target"].partition("#")[0]
        if target and "://" not in target and not (page.parent / target).exists():
            broken.append(target)
    assert broken == []


def test_a_failing_example_would_be_noticed() -> None:
    text = "text\n\n```python\nassert 1 + 1 == 3\n```\n\n```console run\n$ false\n```\n"
    assert blocks(text, "python") == [Block(["python"], 4, "assert 1 + 1 == 3\n")]
    assert blocks(text, "console") == [Block(["console", "run"], 8, "$ false\n")]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_a_code_host_can_show_the_page(page: Path) -> None:
    """Pages have no empty link texts, no roles or labels of MyST, and no directives except in the reference."""
    text = BLOCK.sub("", page.read_text())
    assert re.findall(r"(?<!!)\[\]\([^)]*\)", text) == []
    assert re.findall(r"(?<![`_])\{[a-z]+\}`[^`]+`|^\([\w-]+\)=$", text, re.MULTILINE) == []
    directives = [line for line in page.read_text().splitlines() if line.startswith("```{")]
    if not page.stem.endswith("reference"):
        assert directives == []


def test_the_navigation_has_every_page_once() -> None:
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text()
    listed = re.findall(r"^(?:-|\d+\.) \[[^\]]+\]\(([\w/-]+\.md)\)", index, re.MULTILINE)
    pages = [str(page.relative_to(docs)) for page in PAGES if docs in page.parents]
    assert sorted([*listed, "index.md"]) == sorted(pages)


def test_links_of_the_readme_work_on_the_package_index() -> None:
    """It shows README.md, and does not resolve relative links."""
    text = BLOCK.sub("", (ROOT / "README.md").read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text)
    assert targets
    assert [target for target in targets if not target.startswith("https://")] == []
    ours = re.compile(
        r"https://(?:github\.com/nri-sync/nri_sync/blob|raw\.githubusercontent\.com/nri-sync/nri_sync)/main/(.*)"
    )
    paths = [match[1].partition("#")[0] for match in map(ours.match, targets) if match]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).is_file()] == []


def test_the_test_of_the_readme_passes(nri_runtime: Any, nri_plugin: Any) -> None:
    namespace: dict[str, Any] = {"__name__": "readme"}
    for block in blocks((ROOT / "README.md").read_text(), "python")[:2]:
        exec(block.body, namespace)
    namespace["test_the_zone_of_the_pod"](nri_runtime, nri_plugin)


def test_the_figures_of_the_readme_are_measured() -> None:
    """Each number of its comparison is in the row of docs/performance.md that it is taken from."""
    measured = (ROOT / "docs" / "performance.md").read_text()

    def row(section: str, contestant: str) -> list[str]:
        found = re.search(rf"^## {section}\n.*?^\| {contestant} \|(.*)\|$", measured, re.M | re.S)
        assert found
        return [cell.split("±")[0].strip() for cell in found[1].split("|")]

    readme = (ROOT / "README.md").read_text()
    create, state = (
        "CreateContainer, 30 variables.*?",
        "From start.. to synchronized with 10,000 .*?",
    )
    for title, section, column, unit in [
        ("CreateContainer, median", create, 0, "us"),
        ("CreateContainer, 99th percentile", create, 1, "us"),
        ("synchronized with 10,000 containers", state, 0, "ms"),
    ]:
        ours, theirs = row(section, "nri_sync")[column], row(section, "Go stub")[column]
        assert f"| {title} | {ours} {unit} | {theirs} {unit} |\n" in readme


NAME = re.compile(r"(?<![\w./-])nri_sync(?:\.\w+)+")
SHORT = re.compile(
    r"`((?:api|cli|kit|net|plugin|rpc|runtime|testing|ttrpc|wire)(?:\.\w+)+)(?:\(\))?`"
)
PATH = re.compile(r"(?<![\w/.-])(?:nri_sync|tests|tools|benchmarks)/[\w./-]+\.py\b")
# Pages for readers of the code: they leave out "nri_sync." before the names of modules.
INTERNAL = ("locks.md", "request.md")
# Files of the projects that the pages make.
MADE = {"tests/test_timezone.py"}


def exists(name: str) -> bool:
    """Whether ``name`` leads to a module of the package, to a part of one, or to a field that instances have."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        break
    for part in parts[count:]:
        if not hasattr(found, part):
            return inspect.isclass(found) and f"self.{part}" in inspect.getsource(found)
        found = getattr(found, part)
    return True


def loggers() -> set[str]:
    text = "".join(path.read_text() for path in sorted((ROOT / "nri_sync").rglob("*.py")))
    return set(re.findall(r'get_logger\("([\w.]+)"[,)]', text))


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_names_and_files_of_a_page_exist(page: Path) -> None:
    text = page.read_text()
    code = re.findall(r"`[^`\n]+`", text)
    names = {name for part in code for name in NAME.findall(part)}
    if page.name in INTERNAL:
        names |= {f"nri_sync.{name}" for part in code for name in SHORT.findall(part)}
    assert {name for name in names - loggers() if not exists(name)} == set()
    assert {path for path in PATH.findall(text) if not (ROOT / path).exists()} <= MADE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nri_sync.plugin.lane.FastLane", True),
        ("nri_sync.net.timer.Timer._lock", True),
        ("nri_sync.net.timer.Timer.sentinel", False),
        ("nri_sync.plugin.absent", False),
    ],
)
def test_a_wrong_name_would_be_noticed(name: str, expected: bool) -> None:
    assert exists(name) == expected


def test_the_page_on_locks_is_complete() -> None:
    """Each lock of the package has its row, and each row its lock."""
    made = re.compile(
        r"(?:^|self\.)(\w+)(?:: [^=]*)? = threading\.(?:R?Lock\(\)|Condition\(threading)", re.M
    )
    locks = set()
    for path in (ROOT / "nri_sync").rglob("*.py"):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for attribute in made.findall(path.read_text()):
            locks.add((module, attribute))
    page = (ROOT / "docs" / "locks.md").read_text()
    rows = re.findall(r"^\| `(nri_sync[\w.]*?)(?:\.[A-Z_]\w*)?\.(\w+)` \| [1-4] \|", page, re.M)
    assert set(rows) == locks
    assert len(rows) == len(locks)


def thread_names(source: str) -> set[str]:
    """The names of threads that the functions of nri_sync.threads start there, with X for each variable part."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        function = ast.unparse(node.func).rpartition(".")[2]
        if function not in ("spawn", "spawn_anywhere", "off_main", "call_off_main"):
            continue
        name = node.args[0]
        parts = name.values if isinstance(name, ast.JoinedStr) else [name]
        text = "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in parts)
        if text != "X":
            found.add(text)
    return found


def test_the_page_on_threads_is_complete() -> None:
    """Each name of a thread in the package has its row."""
    page = (ROOT / "docs" / "locks.md").read_text()
    table = page.split("## All threads by name")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", table, re.M)
    listed = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    names: set[str] = set()
    for path in (ROOT / "nri_sync").rglob("*.py"):
        names |= thread_names(path.read_text())
    assert {"X-timer", "nri-accept", "nri-plugin-X-output"} <= names
    missing = [
        name
        for name in sorted(names)
        if not any(re.fullmatch(name.replace("X", "[A-Za-z0-9]+"), row) for row in listed)
    ]
    assert missing == []
