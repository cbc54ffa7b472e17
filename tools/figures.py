"""Draws the figures of the documentation as SVG; ``--check`` only compares.

The lifecycle comes from the transition table of :mod:`nri_sync.plugin.state`. The terminals show the real output
of the commands. Times differ from run to run, and are not compared. A test compares the layers with
tests/test_layering.py.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from html import escape
from pathlib import Path

from nri_sync.plugin.state import TRANSITIONS, Move, State
from tools.record_cli import same

__all__ = ["DIRECTORY", "draw", "layers", "lifecycle", "main", "request", "terminal"]

ROOT = Path(__file__).resolve().parent.parent
DIRECTORY = ROOT / "docs" / "figures"
# The colours suit light and dark pages: each figure has its own background.
PAPER, INK, LINE, BOX, ACCENT = "#f6f8fa", "#1f2328", "#57606a", "#ffffff", "#0969da"
SCREEN, TEXT = "#161b22", "#e6edf3"
ANSI = {
    "2": "#8b949e",
    "31": "#ff7b72",
    "32": "#7ee787",
    "33": "#e3b341",
    "34": "#79c0ff",
    "35": "#d2a8ff",
    "36": "#76e3ea",
}
SGR = re.compile(r"\x1b\[([0-9;]*)m")
SANS = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
MONO = "font-family='ui-monospace, SFMono-Regular, Menlo, DejaVu Sans Mono, monospace'"

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: calendar, annotations: {timezone.example.com: Europe/Berlin}}
spec: {containers: [{name: web, image: "docker.io/library/nginx:1.29"}]}
---
apiVersion: v1
kind: Pod
metadata: {name: rover, annotations: {timezone.example.com: Mars/Olympus}}
spec: {containers: [{name: driver, image: "docker.io/library/busybox:1.37"}]}
"""


def _svg(width: int, height: int, title: str, body: Iterable[str], paper: str = PAPER) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' height='{height}'"
        f" role='img' aria-label='{escape(title, quote=True)}'>\n"
        f"<title>{escape(title)}</title>\n"
        "<defs><marker id='a' viewBox='0 0 10 10' refX='9' refY='5' markerWidth='7' markerHeight='7'"
        f" orient='auto-start-reverse'><path d='M0 0 10 5 0 10z' fill='{LINE}'/></marker></defs>\n"
        f"<rect width='{width}' height='{height}' rx='8' fill='{paper}'/>\n"
        + "".join(f"{part}\n" for part in body)
        + "</svg>\n"
    )


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "middle",
    size: int = 14,
    fill: str = INK,
    bold: bool = False,
) -> str:
    weight = " font-weight='600'" if bold else ""
    return (
        f"<text x='{x:g}' y='{y:g}' {SANS} font-size='{size}' fill='{fill}' text-anchor='{anchor}'{weight}>"
        f"{escape(text)}</text>"
    )


def _box(
    x: float, y: float, width: float, height: float, *lines: str, fill: str = BOX
) -> list[str]:
    """A box with a heading, and smaller lines below."""
    parts = [
        f"<rect x='{x:g}' y='{y:g}' width='{width:g}' height='{height:g}' rx='6' fill='{fill}' stroke='{LINE}'/>"
    ]
    top = y + height / 2 + 5 - 9 * (len(lines) - 1)
    for number, line in enumerate(lines):
        parts.append(
            _text(
                x + width / 2, top + 18 * number, line, size=12 if number else 14, bold=not number
            )
        )
    return parts


def _arrow(path: str) -> str:
    return f"<path d='{path}' fill='none' stroke='{LINE}' stroke-width='1.5' marker-end='url(#a)'/>"


# The position of each state, and the name of each transition: the calls and causes of docs/lifecycle.md.
_PLACES = {
    State.IDLE: (40, 110),
    State.STARTING: (290, 110),
    State.STARTED: (540, 110),
    State.STOPPING: (290, 250),
}
_CALLS = {Move.START: "start()", Move.CONFIGURED: "configured", Move.END: "stop()"}
_ENDED = {State.STARTING: "failed", State.STARTED: "lost", State.STOPPING: "closed"}
_W, _H = 120, 50


def _route(x1: int, y1: int, x2: int, y2: int) -> tuple[str, float, float]:
    """The path of an arrow between two states, and the position of its name."""
    middle, beside, between = (x1 + x2 + _W) / 2, x1 + _W / 2 + 26, (y1 + _H + y2) / 2 + 4
    if y1 == y2 and x2 > x1:
        return f"M{x1 + _W} {y1 + 18}H{x2 - 2}", middle, y1 + 11
    if y1 == y2 and x1 - x2 > 2 * _W + 50:  # over the state between them
        return f"M{x1 + _W / 2} {y1}V{y1 - 45}H{x2 + _W / 2}V{y2 - 2}", middle, y1 - 52
    if y1 == y2:
        return f"M{x1} {y1 + 36}H{x2 + _W + 2}", middle, y1 + 50
    if x1 == x2:
        return f"M{x1 + _W / 2} {y1 + _H}V{y2 - 2}", beside, between
    if x1 > x2 and y2 > y1:
        return f"M{x1 + _W / 2} {y1 + _H}V{y2 + _H / 2}H{x2 + _W + 2}", beside, between
    return f"M{x1} {y1 + _H / 2}H{x2 + _W / 2}V{y2 + _H + 2}", middle - _W / 4, y1 + _H / 2 - 7


def lifecycle() -> str:
    """The states of a stub and the transitions between them, from the transition table."""
    parts: list[str] = []
    for (state, move), target in TRANSITIONS.items():
        path, x, y = _route(*_PLACES[state], *_PLACES[target])
        parts += [_arrow(path), _text(x, y, _CALLS.get(move) or _ENDED[state], size=12)]
    for state, place in _PLACES.items():
        parts += _box(*place, _W, _H, state.name)
    return _svg(700, 330, "The lifecycle of a stub", parts)


# From top to bottom, in the order of imports. The packages of one row do not import each other.
_LAYERS = [
    [("cli", "the nri-sync command"), ("testing", "fake runtime, simulation")],
    [("kit", "inventory, updates, health, program")],
    [("plugin", "the stub"), ("runtime", "the other end")],
    [("session", "an NRI connection"), ("ttrpc", "the interfaces of grpcio")],
    [("rpc", "calls, streams, contexts")],
    [("net", "socket and threads")],
    [("wire", "frames, messages, stream states"), ("api", "protobuf messages, helpers")],
    [("errors, deadline, threads", "")],
]


def layers() -> str:
    """The packages, each above the packages that it imports."""
    parts: list[str] = []
    for row, names in enumerate(_LAYERS):
        width = (600 - 12 * (len(names) - 1)) / len(names)
        for column, (name, purpose) in enumerate(names):
            x, y = 20 + column * (width + 12), 20 + row * 58
            parts += _box(x, y, width, 48, *filter(None, (name, purpose)))
    height = 20 + len(_LAYERS) * 58 + 10
    parts.append(_arrow(f"M655 30V{height - 30}"))
    parts.append(_text(655, 22, "imports", size=12))
    return _svg(700, height, "The layers of nri_sync", parts)


_WAY = [
    ("net.link", "the reader receives bytes"),
    ("wire.mux", "bytes to frames"),
    ("wire.ttrpc", "frames to messages"),
    ("wire.streams", "state of the stream"),
    ("rpc.server", "method, call"),
    ("plugin.interceptors", "around the request"),
    ("plugin.servicer", "arguments, response"),
    ("your handler", "create_container(pod, container)"),
]


def request() -> str:
    """The path of a request to the handler, and of the answer back."""
    parts: list[str] = []
    for row, (name, work) in enumerate(_WAY):
        y = 40 + row * 62
        fill = "#ddf4ff" if row == len(_WAY) - 1 else BOX
        parts += _box(60, y, 300, 48, name, work, fill=fill)
        if row:
            parts += [_arrow(f"M160 {y - 14}V{y - 1}"), _arrow(f"M260 {y}V{y - 13}")]
    parts += [
        _arrow("M160 12V39"), _text(152, 26, "request", anchor="end", size=12),
        _arrow("M260 40V13"), _text(268, 26, "response", anchor="start", size=12),
        _text(382, 160, "reader: holds the read token", anchor="start", size=12, fill=ACCENT),
        _text(382, 412, "worker: the same thread, token free", anchor="start", size=12, fill=ACCENT),
        f"<path d='M370 44V272' stroke='{ACCENT}' fill='none'/>",
        f"<path d='M370 292V520' stroke='{ACCENT}' fill='none'/>",
    ]  # fmt: skip
    return _svg(620, 40 + len(_WAY) * 62, "One request's way through the layers", parts)


def terminal(title: str, text: str) -> str:
    """A terminal that shows ``text``, with its ANSI colours."""
    lines = text.rstrip("\n").split("\n")
    plain = [SGR.sub("", line) for line in lines]
    width = 32 + int(max(map(len, plain)) * 7.83 + 1)
    parts = [f"<g {MONO} font-size='13' fill='{TEXT}' xml:space='preserve'>"]
    for number, line in enumerate(lines):
        spans, colour, bold = [], "", False
        for index, piece in enumerate(SGR.split(line)):
            if index % 2:
                codes = piece.split(";")
                colour = next((ANSI[code] for code in codes if code in ANSI), "")
                bold = "1" in codes
            elif piece:
                fill = f" fill='{colour}'" if colour else ""
                weight = " font-weight='600'" if bold else ""
                spans.append(f"<tspan{fill}{weight}>{escape(piece)}</tspan>")
        if spans:
            parts.append(
                f"<text x='16' y='{28 + number * 19}' xml:space='preserve'>{''.join(spans)}</text>"
            )
    parts.append("</g>")
    return _svg(width, 28 + len(lines) * 19, title, parts, paper=SCREEN)


def readme_plugin() -> str:
    """The plugin in the README, which is its first Python block."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
    assert found
    return found[1]


def _printed(command: str, directory: str) -> str:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            *command.replace("nri-sync", "nri_sync", 1).split(),
            "--color",
            "always",
        ],
        cwd=directory,
        env={"PYTHONPATH": str(ROOT), "COLUMNS": "100", "TERM": "xterm-256color"},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    return f"\x1b[2m$\x1b[0m {command}\n" + done.stdout.replace(f"{ROOT}/", "")


def _terminals() -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="nri") as directory:
        Path(directory, "timezone.py").write_text(readme_plugin())
        Path(directory, "pods.yaml").write_text(PODS)
        simulate = _printed("nri-sync simulate timezone.py -f pods.yaml", directory)
        demo = _printed("nri-sync demo", directory)
    # The picture shows the changes only; the plugin and the pod precede them.
    command, _, rest = demo.partition("\n")
    demo = f"{command}\n...\n{rest[rest.index('The changes') :]}"
    return {
        "simulate": terminal("What nri-sync simulate prints", simulate),
        "demo": terminal("What nri-sync demo prints", demo),
    }


def draw() -> dict[str, str]:
    """All figures by the names of their files."""
    return {
        "lifecycle": lifecycle(),
        "layers": layers(),
        "request": request(),
        **_terminals(),
    }


def main(argv: list[str] | None = None) -> int:
    """Write the figures; with ``--check``, return 1 if one is not current."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    arguments = parser.parse_args(argv)
    stale = 0
    for name, svg in draw().items():
        path = DIRECTORY / f"{name}.svg"
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        if same(before, svg):
            stale += 1
            print(f"{path.relative_to(ROOT)} is not current")
            if not arguments.check:
                path.parent.mkdir(exist_ok=True)
                path.write_text(svg, encoding="utf-8")
    return 1 if arguments.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
