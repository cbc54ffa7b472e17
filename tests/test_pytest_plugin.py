"""The fixtures for tests of plugins, in separate pytest runs."""

from __future__ import annotations

import configparser
import importlib
import textwrap
import types
from pathlib import Path
from typing import Any

import pytest

from nri_sync import api
from nri_sync.pytest_plugin import pytest_assertrepr_compare
from nri_sync.testing import (
    FakeRuntime,
    StartPlugin,
    hostile_sessions,
    make_container,
    make_pod,
)
from tests.test_docs import blocks

__all__: list[str] = []

# Whole programs run, which take their time on a busy machine.
pytestmark = pytest.mark.timeout(300)

pytest_plugins = ["pytester"]

ROOT = Path(__file__).resolve().parent.parent
NAME = "nri_sync.pytest_plugin"
# The beginning of a test file of a plugin author.
PLUGIN = """
import threading

import pytest

from nri_sync import Stub, api
from nri_sync.errors import RequestFailed
from nri_sync.testing import make_container, make_pod


class Labeller:
    def create_container(self, pod, container):
        if container.name == "bad":
            raise ValueError("not this one")
        return api.Adjustment().add_env("POD", pod.name)
"""


def entry_point() -> dict[str, str]:
    """The entry point of setup.cfg."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lines = config["options.entry_points"]["pytest11"].split("\n")
    return {key.strip(): value.strip() for key, _, value in (x.partition("=") for x in lines if x)}


class Author:
    """Runs tests as the author of a plugin does."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester
        pytester.makeini("[pytest]\naddopts = -ra --strict-markers\nfilterwarnings = error\n")

    def run(self, source: str, *arguments: str) -> pytest.RunResult:
        """Run tests of the plugin."""
        self._pytester.makepyfile(PLUGIN + textwrap.dedent(source))
        return self._pytester.runpytest_inprocess(
            *arguments, plugins=[importlib.import_module(NAME)]
        )

    def configure(self, **settings: str) -> None:
        """Write the configuration of pytest."""
        lines = "".join(f"{key} = {value}\n" for key, value in settings.items())
        self._pytester.makeini(f"[pytest]\n{lines}")

    def run_apart(self, *arguments: str) -> pytest.RunResult:
        """Run pytest in a separate process, which has imported no module yet."""
        return self._pytester.runpytest_subprocess("-p", NAME, *arguments, timeout=250)


@pytest.fixture
def author(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Author:
    # The same with an installed package and without.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Author(pytester)


class TestLoading:
    def test_announced_to_pytest(self) -> None:
        announced = entry_point()
        assert announced == {"nri_sync": NAME}
        module = importlib.import_module(announced["nri_sync"])
        assert module.__file__ == str(ROOT / "nri_sync" / "pytest_plugin.py")

    def test_found_by_pytest(
        self, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The directory with the metadata of an installed package, and no other files."""
        [(key, value)] = entry_point().items()
        metadata = pytester.mkdir("nri_sync_of_test-1.dist-info")
        (metadata / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: nri_sync_of_test\nVersion: 1\n"
        )
        (metadata / "entry_points.txt").write_text(f"[pytest11]\n{key} = {value}\n")
        monkeypatch.setenv("PYTHONPATH", f"{pytester.path}:{ROOT}")
        pytester.makepyfile("def test_it(nri_runtime): assert nri_runtime.plugins == ()")
        result = pytester.runpytest_subprocess("-W", "error", timeout=250)
        result.assert_outcomes(passed=1)

    def test_imports_nothing_heavy_before_a_fixture_is_used(
        self, pytester: pytest.Pytester, author: Author
    ) -> None:
        pytester.makepyfile(
            """
            import sys

            import pytest

            HEAVY = {"google.protobuf", "nri_sync.api", "nri_sync.runtime", "nri_sync.testing"}

            def test_without():
                with pytest.raises(AssertionError):
                    assert "a failed comparison" == "that pytest_assertrepr_compare() sees"
                imported = {name for name in sys.modules if name.startswith("nri_sync")}
                assert imported == {"nri_sync", "nri_sync.pytest_plugin"}
                assert not (HEAVY | {"grpc"}) & set(sys.modules)

            def test_with(nri_runtime):
                assert set(sys.modules) >= HEAVY
                assert "grpc" not in sys.modules
            """
        )
        author.run_apart().assert_outcomes(passed=2)

    def test_its_fixtures_and_marker_are_explained(self, author: Author) -> None:
        fixtures = author.run_apart("--fixtures")
        fixtures.stdout.re_match_lines([r"nri_runtime.*", r"\s+A container runtime for one test.*"])
        fixtures.stdout.re_match_lines([r"nri_plugin.*", r"\s+Starts plugins on nri_runtime.*"])
        markers = author.run_apart("--markers")
        markers.stdout.fnmatch_lines(["@pytest.mark.nri_runtime(*"])


class TestUse:
    def test_a_plugin_that_works(self, author: Author) -> None:
        result = author.run(
            """
            def test_it(nri_runtime, nri_plugin):
                stub = nri_plugin(Labeller())
                assert isinstance(stub, Stub)
                assert nri_runtime.plugins == ("10-test",)
                pod = make_pod("web")
                nri_runtime.run_pod(pod)
                assert nri_runtime.create_container(pod, make_container(pod)).env == {"POD": "web"}

            def test_two(nri_runtime, nri_plugin):
                nri_plugin(Labeller(), name="b", idx="20")
                nri_plugin(Labeller(), name="a")
                assert nri_runtime.plugins == ("10-a", "20-b")

            @pytest.mark.nri_runtime(request_timeout=7.5)
            def test_with_options(nri_plugin):
                assert nri_plugin(Labeller()).request_timeout == 7.5

            def test_a_failure_that_is_expected(nri_runtime, nri_plugin):
                nri_plugin(Labeller())
                pod = make_pod("web")
                nri_runtime.run_pod(pod)
                with pytest.raises(RequestFailed, match="not this one"):
                    nri_runtime.create_container(pod, make_container(pod, "bad"))
            """
        )
        result.assert_outcomes(passed=4)

    def test_with_unittest(self, author: Author) -> None:
        result = author.run(
            """
            import contextlib
            import unittest

            from nri_sync.testing import FakeRuntime

            class Tests(unittest.TestCase):
                def setUp(self):
                    stack = contextlib.ExitStack()
                    self.addCleanup(stack.close)
                    self.runtime = stack.enter_context(FakeRuntime())
                    self.stub = stack.enter_context(self.runtime.run_plugin(Labeller()))

                def test_it(self):
                    pod = make_pod("web")
                    self.runtime.run_pod(pod)
                    result = self.runtime.create_container(pod, make_container(pod))
                    self.assertEqual(result.env, {"POD": "web"})
            """
        )
        result.assert_outcomes(passed=1)

    def test_options_that_there_are_not(self, author: Author) -> None:
        result = author.run(
            """
            @pytest.mark.nri_runtime(timeout=0.5)
            def test_it(nri_runtime):
                pass
            """
        )
        result.assert_outcomes(errors=1)
        result.stdout.fnmatch_lines(["*unexpected keyword argument 'timeout'*"])


class TestFailures:
    """A failure is reported where it happened, and no thread or process is left."""

    def test_a_handler_that_raises(self, author: Author) -> None:
        result = author.run(
            """
            def test_it(nri_runtime, nri_plugin):
                nri_plugin(Labeller())
                pod = make_pod("web")
                nri_runtime.run_pod(pod)
                nri_runtime.create_container(pod, make_container(pod, "bad"))
            """
        )
        # The text occurs once, with the line of the plugin.
        result.assert_outcomes(failed=1)
        result.stdout.fnmatch_lines(
            [
                '    raise ValueError("not this one")',
                "*direct cause*",
                "*RequestFailed: plugin 10-test: CreateContainer failed: ValueError: not this one",
            ]
        )

    def test_a_handler_that_raises_is_shown_in_a_dozen_lines(self, author: Author) -> None:
        """The report has the frames of the plugin and the test, without their arguments: pods and containers."""
        shown = author.run(
            """
            class Bad:
                def create_container(self, pod, container):
                    return self.lookup({}, "key")

                def lookup(self, table, key):
                    return table[key]

            def test_it(nri_runtime, nri_plugin):
                nri_plugin(Bad())
                pod = make_pod()
                nri_runtime.run_pod(pod)
                nri_runtime.create_container(pod, make_container(pod))
            """,
            "--show-capture=no",
        ).outlines
        begin = next(number for number, line in enumerate(shown) if "___ test_it ___" in line)
        end = next(number for number, line in enumerate(shown) if "short test summary" in line)
        lines = [line for line in shown[begin + 1 : end] if line.strip(" ^~")]
        assert [line.partition(": in ")[2] for line in lines if ": in " in line] == [
            "create_container", "lookup", "test_it",
        ]  # fmt: skip
        assert "E   KeyError: 'key'" in lines
        assert lines[-1].endswith(
            "RequestFailed: plugin 10-test: CreateContainer failed: KeyError: 'key'"
        )
        assert len(lines) <= 12

    @pytest.mark.parametrize("handler", ["configure", "synchronize"])
    def test_one_that_raises_at_the_start_is_shown_in_brief(
        self, author: Author, handler: str
    ) -> None:
        shown = author.run(
            f"""
            class Bad(Labeller):
                def {handler}(self, *arguments):
                    return dict()["key"]

            def test_it(nri_plugin):
                nri_plugin(Bad())
            """,
            "--show-capture=no",
        )
        assert not [line for line in shown.outlines if "nri_sync/" in line]
        assert len(shown.outlines) < 45

    def test_the_users_own_style_stands(self, author: Author) -> None:
        source = """
            class Bad:
                def run_pod_sandbox(self, pod):
                    raise ValueError("no")

            def test_it(nri_runtime, nri_plugin):
                nri_plugin(Bad())
                nri_runtime.run_pod(make_pod())
            """
        assert not [line for line in author.run(source).outlines if line.startswith("pod = id:")]
        assert [
            line
            for line in author.run(source, "--tb=long").outlines
            if line.startswith("pod = id:")
        ]

    def test_a_plugin_that_does_not_start(self, author: Author) -> None:
        result = author.run(
            """
            class Unconfigured(Labeller):
                def configure(self, config, runtime, version):
                    raise KeyError("color")

            class Unsynchronized(Labeller):
                def synchronize(self, pods, containers):
                    raise KeyError("color")

            def test_configure(nri_plugin):
                nri_plugin(Unconfigured())

            def test_synchronize(nri_plugin):
                nri_plugin(Unsynchronized())
            """
        )
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(
            [
                "*StartError: plugin 10-test: configure failed: KeyError('color')",
                "*AssertionError: plugin 10-test was not synchronized: KeyError('color')",
            ]
        )

    def test_an_exception_that_failed_no_event(self, author: Author) -> None:
        result = author.run(
            """
            class Once:
                synchronized = False

                def synchronize(self, pods, containers):
                    if self.synchronized:
                        raise ValueError("only once")
                    self.synchronized = True

            def test_it(nri_runtime, nri_plugin):
                closed = threading.Event()
                stub = nri_plugin(Once(), on_close=lambda stub: closed.set())
                stub.stop()
                stub.start()
                assert closed.wait(20)

            def test_the_next(nri_runtime, nri_plugin):
                nri_plugin(Labeller())
            """
        )
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            ["*AssertionError: a handler of plugin 10-test has raised ValueError('only once')"]
        )

    def test_a_plugin_that_the_test_has_left_connected(self, author: Author) -> None:
        result = author.run(
            """
            def test_it(monkeypatch, nri_runtime):
                monkeypatch.setattr("nri_sync.testing.fake.WITHIN", 0.2)
                stub = Stub(Labeller(), name="left", idx="10", socket_path=nri_runtime.socket_path)
                stub.start()
                nri_runtime.wait_for(lambda: nri_runtime.plugins)

            def test_the_next(nri_runtime):
                assert nri_runtime.plugins == ()
            """
        )
        result.assert_outcomes(passed=2, errors=1)
        result.stdout.fnmatch_lines(
            ["*AssertionError: still connected at the end of the test: 10-left; stop each plugin*"]
        )

    def test_nothing_is_left_behind(self, author: Author) -> None:
        """The fixtures for threads and descriptors of this test itself also check that."""
        result = author.run(
            """
            import os

            PATHS = []

            @pytest.mark.parametrize("fails", ["in the test", "in a handler", "in the fixture"])
            def test_it(nri_runtime, nri_plugin, fails):
                PATHS.append(nri_runtime.socket_path)
                nri_plugin(Labeller())
                nri_plugin(Labeller(), name="second")
                pod = make_pod()
                nri_runtime.run_pod(pod)
                if fails == "in a handler":
                    nri_runtime.create_container(pod, make_container(pod, "bad"))
                elif fails == "in the fixture":
                    nri_plugin(Labeller(), name="not a name")
                assert fails != "in the test"

            def test_the_end():
                assert len(PATHS) == 3
                assert not [path for path in PATHS if os.path.exists(os.path.dirname(path))]
            """
        )
        result.assert_outcomes(passed=1, failed=3)


def test_the_page_of_the_documentation(author: Author, pytester: pytest.Pytester) -> None:
    """The examples of the page are tests, which pytest can run unchanged."""
    page = (ROOT / "docs" / "testing.md").read_text()
    pytester.makepyfile("\n\n".join(block.body for block in blocks(page, "python")))
    result = pytester.runpytest_inprocess(plugins=[importlib.import_module(NAME)])
    outcomes = result.parseoutcomes()
    assert outcomes.keys() == {"passed"}
    # Two of the examples are parametrized: by hostile sessions, and by 18 offsets and both senders of a cut.
    assert outcomes["passed"] == 11 + len(hostile_sessions()) + 18 * 2


class TestConfiguration:
    SOURCE = """
        import pytest

        def test_it(nri_runtime):
            print("is", nri_runtime._name, nri_runtime._version, nri_runtime._options)

        @pytest.mark.nri_runtime(version="9", request_timeout=1)
        def test_marked(nri_runtime):
            print("marked", nri_runtime._name, nri_runtime._version, nri_runtime._options)
        """

    def test_without_any_it_is_the_default_of_the_class(self, author: Author) -> None:
        result = author.run(self.SOURCE, "-s")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(["nri: runtime containerd:v2.4.2", "*is containerd v2.4.2 *"])
        plugin = types.SimpleNamespace(run_pod_sandbox=lambda pod: None)
        with FakeRuntime() as default, default.run_plugin(plugin, name="x", idx="10") as stub:
            assert (stub.runtime_name, stub.runtime_version) == ("containerd", "v2.4.2")

    def test_with_settings(self, author: Author) -> None:
        author.configure(
            nri_runtime="cri-o:1.34.1", nri_version="v0.9.0", nri_request_timeout="2.5"
        )
        result = author.run(self.SOURCE, "-s")
        result.assert_outcomes(passed=2)
        result.stdout.fnmatch_lines(
            [
                "nri: runtime cri-o:1.34.1, as NRI v0.9.0",
                "*is cri-o 1.34.1 *'nri_version': 'v0.9.0'*'request_timeout': 2.5*",
                "*marked cri-o 9 *'request_timeout': 1,*",
            ]
        )

    def test_with_a_runtime_as_the_kubelet_names_it(self, author: Author) -> None:
        author.configure(nri_runtime="cri-o://1.34.1")
        author.run(self.SOURCE, "-s").stdout.fnmatch_lines(["*is cri-o 1.34.1 *"])

    @pytest.mark.parametrize(
        ("setting", "value", "text"),
        [
            ("nri_runtime", "cri-o", "nri_runtime is a name and a version, *, not 'cri-o'"),
            ("nri_request_timeout", "2s", "nri_request_timeout is a number of seconds, not '2s'"),
        ],
    )
    def test_with_wrong_ones(
        self, author: Author, pytester: pytest.Pytester, setting: str, value: str, text: str
    ) -> None:
        author.configure(**{setting: value})
        result = author.run_apart()
        assert result.ret == pytest.ExitCode.USAGE_ERROR
        result.stderr.fnmatch_lines([f"ERROR: {text}"])


class TestComparison:
    def test_two_messages(self) -> None:
        left = api.Adjustment().add_env("A", "1").add_env("B", "2").message
        right = api.Adjustment().add_env("A", "1").add_env("B", "3").message
        text = pytest_assertrepr_compare("==", left, right)
        assert text is not None
        assert text[0] == "ContainerAdjustment == ContainerAdjustment"
        assert '+   value: "2"' in text
        assert '-   value: "3"' in text
        assert '    value: "1"' in text

    def test_the_builders_of_messages(self) -> None:
        left, right = api.Adjustment().add_env("A", "1"), api.Adjustment()
        text = pytest_assertrepr_compare("==", left, right)
        assert text is not None
        assert text[0] == "Adjustment == Adjustment"
        assert '+   key: "A"' in text

    @pytest.mark.parametrize(
        ("op", "left", "right"),
        [("!=", make_pod(), make_pod()), ("==", make_pod(), "pod"), ("==", 1, 2), ("==", [], [1])],
    )
    def test_other_differences_are_pytests(self, op: str, left: Any, right: Any) -> None:
        assert pytest_assertrepr_compare(op, left, right) is None

    def test_of_objects_whose_attributes_raise(self) -> None:
        class Foreign:
            def __getattr__(self, name: str) -> Any:
                raise RuntimeError(f"no {name} for you")

            @property
            def message(self) -> Any:
                raise ValueError("not yet")

        assert pytest_assertrepr_compare("==", Foreign(), Foreign()) is None
        assert pytest_assertrepr_compare("==", make_pod(), Foreign()) is None

    def test_of_objects_that_hold_a_message(self) -> None:
        holder = types.SimpleNamespace(message=make_pod())
        assert pytest_assertrepr_compare("==", holder, holder) is None

    def test_of_other_messages_too(self) -> None:
        from google.protobuf.struct_pb2 import Value

        assert pytest_assertrepr_compare("==", Value(), Value(bool_value=True)) is None


def test_the_types_of_the_fixtures_are_of_use() -> None:
    # Checked by mypy, rather than run.
    def test(nri_runtime: FakeRuntime, nri_plugin: StartPlugin) -> None:
        stub = nri_plugin(object(), name="mine", idx="20", config="a: b", late_reply=False)
        pod = nri_runtime.pod("id")
        nri_runtime.create_container(pod, make_container(pod)).env["A"]
        stub.stop()

    assert test.__annotations__
