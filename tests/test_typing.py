"""The errors of a type checker for programs that use the package: mypy checks small ones."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

__all__: list[str] = []

# Whole programs run, which take their time on a busy machine.
pytestmark = pytest.mark.timeout(300)

api = pytest.importorskip("mypy.api", reason="mypy is not installed here")

# A comment has the expected error of a line. Lines without a comment must be correct.
HEAD = """\
from __future__ import annotations

import grpc
from typing import Any
import nri_sync
from nri_sync import api, errors, kit
from nri_sync.testing import FakeRuntime, StartPlugin, make_pod

class Mine(nri_sync.Plugin):
    def run_pod_sandbox(self, pod: api.PodSandbox) -> None: ...

"""
PROGRAMS = {
    "latest": '''\
background = kit.Background()

class Right(nri_sync.Plugin):
    @background.latest
    def synchronize(self, pods: list[api.PodSandbox], containers: list[api.Container]) -> None: ...
    @background.latest
    def reconcile(self, name: str) -> int:
        return 1

class AlsoRight(nri_sync.Plugin):
    @background.latest
    def stop_container(self, pod: api.PodSandbox, container: api.Container) -> None: ...
    @background.latest
    def update_pod_sandbox(
        self, pod: api.PodSandbox, overhead: api.LinuxResources, resources: api.LinuxResources
    ) -> None: ...
    @background.latest
    def refresh(self) -> None: ...

AlsoRight().refresh()
AlsoRight().refresh.stop()
background.latest(lambda: None).stop()

class Wrong(nri_sync.Plugin):
    @background.latest
    def synchronize(self, pods: str) -> None: ...  # error: override

right = Right()
right.synchronize([], [])
right.reconcile("a")
right.reconcile.stop()
right.reconcile(1)  # error: arg-type

@background.latest
def refresh(count: int) -> None: ...

refresh(1)
refresh("a")  # error: arg-type
task: kit.Task[[]] = background.every(1.0, lambda: None)
task()
''',
    "interceptors": '''\
class Ours(nri_sync.Interceptor):
    def serve(self, event: str, request: Any, context: Any, proceed: Any) -> Any:
        return proceed(request, context)

class Theirs(grpc.ServerInterceptor):
    def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        return continuation(handler_call_details)

class Client(grpc.UnaryUnaryClientInterceptor):
    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        return continuation(details, request)

nri_sync.Stub(Mine(), interceptors=[Ours(), Theirs(), Client(), kit.UpdateQueue(), kit.Background()])
nri_sync.Stub(Mine(), interceptors=[object()])  # error: list-item
nri_sync.Stub(Mine(), interceptors=[Ours])  # error: list-item
nri_sync.Stub(Mine(), interceptors=Ours())  # error: arg-type
kit.run(Mine(), interceptors=[Ours(), object()])  # error: list-item
''',
    "options": '''\
def program() -> None:
    kit.main(Mine, name="a", idx="10", late_reply=False, interceptors=[kit.UpdateQueue()])

def wrong(foo: int) -> None:
    kit.main(Mine, foo=4)  # error: call-arg

def also_wrong() -> None:
    kit.main(Mine, late_reply="no")  # error: arg-type

kit.run(Mine(), kit.Options(), failure_policy=api.FailurePolicy())
kit.run(Mine(), socket_path="/x")  # error: call-arg
nri_sync.Stub(Mine(), foo=4)  # error: call-arg

def test(nri_plugin: StartPlugin, nri_runtime: FakeRuntime) -> None:
    stub = nri_plugin(Mine(), name="a", late_reply=False, timeout=1.0)
    stub.stop()
    nri_plugin(Mine(), foo=4)  # error: call-arg
    nri_plugin(Mine(), interceptors=[object()])  # error: list-item
    with nri_runtime.run_plugin(Mine(), foo=4):  # error: call-arg
        pass
''',
    "handlers": '''\
class Swapped(nri_sync.Plugin):
    def create_container(self, container: api.Container, pod: api.PodSandbox) -> None: ...  # error: override

class Mixin:
    def stop_pod_sandbox(self, pod: api.PodSandbox) -> None: ...

class Mixed(nri_sync.Plugin, Mixin):
    def create_container(self, pod: api.PodSandbox, container: api.Container) -> api.Adjustment:
        return api.Adjustment().add_env("A", "b")
''',
}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[int, set[str]]]:
    """The errors of each program by line, from one run for all programs."""
    directory = tmp_path_factory.mktemp("programs")
    for name, program in PROGRAMS.items():
        (directory / f"program_{name}.py").write_text(HEAD + program)
    config = directory / "mypy.ini"
    # The package's own check covers errors in the package itself.
    config.write_text("[mypy]\nstrict = True\n[mypy-nri_sync.*]\nfollow_imports = silent\n")
    files = sorted(map(str, directory.glob("program_*.py")))
    out, err, _ = api.run(
        [f"--config-file={config}", f"--cache-dir={directory / 'cache'}", "--no-pretty", *files]
    )
    assert not err
    found: dict[str, dict[int, set[str]]] = {name: {} for name in PROGRAMS}
    for line in out.splitlines():
        match = re.match(r"(.*):(\d+): error: .*\[([\w-]+)\]$", line)
        if match:
            name = Path(match[1]).stem.removeprefix("program_")
            assert name in found, line
            found[name].setdefault(int(match[2]), set()).add(match[3])
    return found


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_type_checker_finds_exactly_the_mistakes(
    reported: dict[str, dict[int, set[str]]], name: str
) -> None:
    expected = {}
    for number, line in enumerate((HEAD + PROGRAMS[name]).splitlines(), 1):
        match = re.search(r"# error: ([\w-]+)$", line)
        if match:
            expected[number] = {match[1]}
    assert expected
    assert reported[name] == expected
