"""One runtime for most tests, plugins on it, and the table of docs/e2e.md."""

from __future__ import annotations

import os
import queue
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from tests.e2e import machine, table
from tests.e2e.build import Tools, build
from tests.e2e.containerd import Containerd
from tests.e2e.cri import Container, Cri, Pod
from tests.e2e.crio import Crio
from tests.e2e.inside import CGROUP2, Inside
from tests.e2e.node import Node
from tests.interop.gopeer import Peer
from tests.interop.plugins import Recorder

__all__: list[str] = []

Connect = Callable[..., "nri_sync.Stub"]
RunGo = Callable[..., Peer]
RunWith = Callable[..., Inside]

RUNTIMES: dict[str, type[Node]] = {"containerd": Containerd, "crio": Crio}
RUNTIME = RUNTIMES[os.environ.get("NRI_SYNC_E2E_RUNTIME", "containerd")]

OF_RUNTIMES = "containe|cni|runc|crio|nri"
# The number of characters of the log to print after a failed test.
LOG_SHOWN = 8000


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="write the table of docs/e2e.md")
    parser.addoption("--write-recordings", action="store_true", help="write tests/recorded/crio")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "feature(name, proves): a row of docs/e2e.md, and its value if not yes"
    )
    config.stash[table.RESULTS] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.geteuid() != 0 and items:
        raise pytest.UsageError("the end-to-end tests need root: runtimes do")
    for item in items:
        for mark in item.iter_markers("feature"):
            found = RUNTIME.differs.get(mark.args[0])
            if found is not None:
                item.add_marker(pytest.mark.xfail(strict=True, reason=found))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Function) -> Iterator[None]:
    outcome: Any = yield
    report: pytest.TestReport = outcome.get_result()
    nodes = {name: node for name, node in item.funcargs.items() if isinstance(node, Node)}
    if report.failed:
        for name, node in nodes.items():
            text = node.log.read_text(errors="replace") if node.log.exists() else ""
            report.sections.append((f"log of {name}", text[-LOG_SHOWN:]))
    for mark in item.iter_markers("feature"):
        table.note(item.config.stash[table.RESULTS], mark.args[0], report, **mark.kwargs)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-docs"):
        cgroups = ", cgroup v2" if CGROUP2 else ""
        nri = RUNTIME.nri.partition("-")[0]
        title = f"{RUNTIME.name} {RUNTIME.version} (NRI {nri}{cgroups})"
        table.write(title, session.config.stash[table.RESULTS])


@pytest.fixture(scope="session")
def tools() -> Tools:
    return build()


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """After all tests, look for traces of any runtime, also in the directories that runtimes share."""
    before, images_were_kept = machine.shared_files(), machine.BLOBS.exists()
    yield
    new = machine.shared_files() - before
    if not images_were_kept:
        machine.forget_images()
    left = [path for path in new if re.search(OF_RUNTIMES, path)]
    for root in Node.made:
        left += machine.traces(root)
        left += [str(root)] * root.exists()
    assert left == []


@pytest.fixture(scope="session")
def node(tools: Tools) -> Iterator[Node]:
    """A runtime that many tests share."""
    with RUNTIME(tools) as node:
        node.start()
        yield node


@pytest.fixture
def new_node(tools: Tools) -> Iterator[Node]:
    """A runtime for one test, not started."""
    with RUNTIME(tools) as node:
        yield node
        if not node.running:
            # The runtime has to run in order to remove its pods.
            node.start()


@pytest.fixture
def cri(node: Node) -> Iterator[Cri]:
    """A client. All pods of the test end with it."""
    yield node.cri
    node.cri.remove_all()


@pytest.fixture
def closed() -> queue.SimpleQueue[object]:
    """The reasons of on_close, for the stubs of `connect`."""
    return queue.SimpleQueue()


@pytest.fixture
def connect(node: Node, closed: queue.SimpleQueue[object]) -> Iterator[Connect]:
    """Starts a stub. If its plugin is a Recorder, waits until it is synchronized, and receives all events."""
    stubs: list[nri_sync.Stub] = []

    def connect(plugin: object, **options: Any) -> nri_sync.Stub:
        options = {
            "name": "py",
            "idx": "10",
            "socket_path": str(node.nri_socket),
            "on_close": lambda stub: closed.put(stub.close_reason),
            **options,
        }
        stub = nri_sync.Stub(plugin, **options)
        stubs.append(stub)
        stub.start()
        if isinstance(plugin, Recorder):
            plugin.expect("configure")
            plugin.expect("synchronize")
        return stub

    yield connect
    for stub in stubs:
        stub.stop()


@pytest.fixture
def run_go(node: Node) -> Iterator[RunGo]:
    """Runs a plugin on the Go stub, by default 50-gostub."""
    with ExitStack() as peers:

        def run_go(*arguments: str) -> Peer:
            # Unlike our stub, the Go stub subscribes to events that an older runtime does not have.
            arguments = ("-events", "CreateContainer", *arguments)
            peer = peers.enter_context(
                Peer("stubplugin", "-socket", str(node.nri_socket), *arguments)
            )
            peer.call("start")
            peer.wait_event("synchronize")
            return peer

        yield run_go


@pytest.fixture
def pod(cri: Cri) -> Pod:
    """A pod on the host's network. It runs before the test connects plugins."""
    return cri.run_pod()


@pytest.fixture
def run_with(pod: Pod, connect: Connect) -> RunWith:
    """Runs a container with a plugin's answer to its creation."""

    def run_with(answer: Any, **options: Any) -> Inside:
        connect(Recorder(create_container=answer))
        return Inside(pod.run(**options))

    return run_with


@pytest.fixture
def scratch(node: Node, request: pytest.FixtureRequest) -> Path:
    """A directory that is removed with the runtime."""
    path = node.root / "scratch" / str(request.node.name)
    path.mkdir(parents=True)
    return path


@pytest.fixture
def container(pod: Pod) -> Container:
    """A running container, created before any plugin was connected."""
    return pod.run()
