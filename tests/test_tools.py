"""The decisions of the tools of `make test`."""

from __future__ import annotations

import ast
import configparser
import gzip
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import runpy
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import nri_sync
from nri_sync import StatusCode
from tools import (
    check_lowest,
    debian_root,
    ensure_go,
    free_threaded,
    image,
    mutant_run,
    mutate,
    release,
    run_tox,
)

__all__: list[str] = []


def test_a_report_is_counted(tmp_path: Path) -> None:
    report = tmp_path / "junit.xml"
    suite = '<testsuite tests="9" failures="2" errors="1" skipped="4"/>'
    report.write_text(f"<testsuites>{suite}</testsuites>")
    assert run_tox.count(report) == {"passed": 2, "failed": 3, "skipped": 4}


def test_interpreters_are_those_of_python_3(tmp_path: Path) -> None:
    for version in ("2.7.18", "3.9.18", "3.13.0"):
        (tmp_path / "versions" / version / "bin").mkdir(parents=True)
    found = [Path(path).parent.name for path in run_tox.interpreters(tmp_path)]
    assert found == ["3.13.0", "3.9.18"]


def test_the_quick_and_the_rest_are_everything() -> None:
    names = ["interop", "py39", "debian315", "lint", "types", "docs", "e2e"]
    quick, rest = run_tox.split(names)
    assert quick == ["py{}{}".format(*sys.version_info), "lint", "types", "docs"]
    assert rest == [name for name in ("interop", "py39", "debian315", "e2e") if name not in quick]


class TestDebianRoot:
    def test_a_python_on_path_needs_no_root(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = self.commands(monkeypatch)
        monkeypatch.setattr(shutil, "which", lambda name: f"/opt/{name}")
        assert debian_root.run_tests("3.15", tmp_path / "venv", ["-x"]) == 0
        assert commands[0] == ["/opt/python3.15", "-m", "venv", str(tmp_path / "venv")]
        assert commands[-1] == [str(tmp_path / "venv/bin/python"), "-m", "pytest", "-x"]

    def test_in_a_root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        commands = self.commands(monkeypatch)
        monkeypatch.setattr(debian_root, "is_possible", lambda: True)
        monkeypatch.setattr(debian_root, "make", lambda: tmp_path)
        assert debian_root.run_tests("9.9", tmp_path / "venv", []) == 0
        assert all(command[0] == "unshare" and str(tmp_path) in command for command in commands)
        assert commands[0][-4:] == ["/usr/bin/python9.9", "-m", "venv", str(tmp_path / "venv")]

    @pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
    def test_a_missing_python_fails_in_ci_only(
        self, ci: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        commands = self.commands(monkeypatch)
        monkeypatch.setattr(debian_root, "is_possible", lambda: False)
        monkeypatch.setenv("CI", ci)
        assert debian_root.run_tests("9.9", tmp_path / "venv", []) == code
        assert "Python 9.9 is not on PATH" in capsys.readouterr().out
        assert commands == []

    def commands(self, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        return recorded_commands(monkeypatch)


def recorded_commands(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Records the commands that would run; each succeeds."""
    commands: list[list[str]] = []

    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        commands.append(command)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


class TestFreeThreaded:
    def test_the_newest_python_on_path_is_taken(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        commands = recorded_commands(monkeypatch)
        found = {"python3.14t": "/opt/python3.14t", "python3.13t": "/opt/python3.13t"}
        monkeypatch.setattr(shutil, "which", found.get)
        monkeypatch.setattr(free_threaded, "install_grpcio", lambda python, site: None)
        venv = tmp_path / "venv"
        monkeypatch.setattr(
            shutil,
            "rmtree",
            lambda *_, **__: (venv / "lib/python3.14t/site-packages").mkdir(
                parents=True, exist_ok=True
            ),
        )
        assert free_threaded.run_tests(venv, ["-x", "tests/net"]) == 0
        assert commands[0] == ["/opt/python3.14t", "-m", "venv", str(venv)]
        assert commands[-1] == [str(venv / "bin/python"), "-m", "pytest", "-x", "tests/net"]
        assert free_threaded.run_tests(venv, ["-n", "2"]) == 0
        assert commands[-1][3:] == ["-n", "2", *free_threaded.CORE]

    @pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
    def test_without_a_python_and_a_compiler_it_fails_in_ci_only(
        self, ci: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:  # fmt: skip
        commands = recorded_commands(monkeypatch)
        monkeypatch.setattr(shutil, "which", {"apt-get": "/usr/bin/apt-get"}.get)
        monkeypatch.setenv("CI", ci)
        assert free_threaded.run_tests(tmp_path / "venv", []) == code
        assert "a build needs apt, make and cc" in capsys.readouterr().out
        assert commands == []

    def test_the_stand_in_has_the_codes_of_grpcio(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def download(command: list[str], **options: Any) -> None:
            (dest,) = (part.partition("=")[2] for part in command if part.startswith("--dest="))
            with zipfile.ZipFile(Path(dest) / "grpcio-1.whl", "w") as wheel:
                for name in ("__init__.py", "_cython/__init__.py", "_cython/cygrpc.so"):
                    wheel.writestr(f"grpc/{name}", "")

        monkeypatch.setattr(subprocess, "run", download)
        free_threaded.install_grpcio(Path("python"), tmp_path)
        directory = tmp_path / "grpc" / "_cython"
        assert {path.name for path in directory.iterdir()} == {"__init__.py", "cygrpc.py"}
        names = runpy.run_path(str(directory / "cygrpc.py"))
        codes = {code.name.lower(): code.value for code in StatusCode}
        assert {k: v for k, v in vars(names["StatusCode"]).items() if k[0] != "_"} == codes
        kinds = names["LocalConnectionType"]
        assert kinds.uds == kinds.uds != kinds.local_tcp
        assert issubclass(names["__getattr__"]("ExecuteBatchError"), Exception)

    def test_the_core_is_there(self) -> None:
        assert all((free_threaded.ROOT / path).exists() for path in free_threaded.CORE)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("go1.26.6\n", (1, 26, 6)), ("go1.24\n", (1, 24)), ("go1.25rc1\n", (1, 25)), ("", None)],
)
def test_versions_of_go_compare_as_numbers(text: str, expected: tuple[int, ...] | None) -> None:
    assert ensure_go.version(text, r"^go([\d.]+)") == expected


def test_a_peer_asks_for_a_go() -> None:
    assert ensure_go.needed() >= (1, 24)


class TestLowest:
    def test_the_constraints_are_the_bounds_of_setup_cfg(self) -> None:
        lower = check_lowest.bounds((check_lowest.ROOT / "setup.cfg").read_text())
        pinned = check_lowest.pins(check_lowest.CONSTRAINTS.read_text())
        assert {"protobuf", "grpcio", "pyyaml", "pytest"} <= lower.keys()
        # Packages that are installed separately, which the environment provides.
        assert list(check_lowest.differences(lower, pinned, dict(pinned))) == []

    def test_tox_installs_them_and_checks_it(self) -> None:
        config = configparser.RawConfigParser()
        config.read(check_lowest.ROOT / "tox.ini")
        lowest = config["testenv:lowest"]
        constraints = check_lowest.CONSTRAINTS.relative_to(check_lowest.ROOT)
        assert f"PIP_CONSTRAINT = {{tox_root}}/{constraints}" in lowest["set_env"]
        assert lowest["commands_pre"].split() == ["python", "tools/check_lowest.py"]
        assert "deps" not in lowest

    @pytest.mark.parametrize(
        ("lower", "pinned", "installed", "right"),
        [
            ("4.25", "4.25.0", "4.25.0", True),
            ("4.25", "4.25.0", "6.33.6", False),
            ("4.25", "4.25.3", "4.25.3", False),
            ("4.25", "4.25", None, False),
            (None, "4.25", "4.25", False),
            ("4.25", None, "4.25", False),
            ("4.2", "4.20", "4.20", False),
        ],
    )
    def test_differences(
        self, lower: str | None, pinned: str | None, installed: str | None, right: bool
    ) -> None:
        def named(version: str | None) -> dict[str, str]:
            return {} if version is None else {"protobuf": version}

        found = list(check_lowest.differences(named(lower), named(pinned), {"protobuf": installed}))
        assert [line.startswith("protobuf: ") for line in found] == ([] if right else [True])

    def test_extras_are_followed(self) -> None:
        text = (
            "[options]\ninstall_requires =\n  # a comment\n  One>=1.2\n[options.extras_require]\n"
            'test =\n  nri_sync[a,b]\n  two_two>=3\na =\n  three>=1; python_version < "3.11"\nb =\n  four>=4\n'
        )
        assert check_lowest.bounds(text) == {
            "one": "1.2",
            "two-two": "3",
            "three": "1",
            "four": "4",
        }

    @pytest.mark.parametrize("requirement", ["one", "one==1", "one<2"])
    def test_a_requirement_without_a_bound(self, requirement: str) -> None:
        text = f"[options]\ninstall_requires =\n  {requirement}\n[options.extras_require]\ntest =\n"
        with pytest.raises(ValueError, match=requirement):
            check_lowest.bounds(text)

    def test_a_newer_release_fails(self, capsys: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.1")
        assert check_lowest.main([]) == 1
        assert "protobuf: setup.cfg allows 4.25" in capsys.readouterr().err


class TestVersions:
    def test_of_this_project(self) -> None:
        release.check_versions()
        assert set(release.versions().values()) >= {nri_sync.__version__}

    @pytest.mark.parametrize(
        ("package", "citation", "changelog", "wrong"),
        [
            ("1.2.3", "1.2.3", "1.2.3", ""),
            ("1.2.3", "1.2.2", "1.2.3", r"CITATION.cff has 1\.2\.2"),
            ("1.2.3", "1.2.3", "Unreleased", "CHANGELOG.md has Unreleased"),
            ("1.3.0.dev0", "1.2.3", "Unreleased", ""),
        ],
    )
    def test_files_must_agree(
        self, package: str, citation: str, changelog: str, wrong: str, tmp_path: Path
    ) -> None:
        (tmp_path / "nri_sync").mkdir()
        (tmp_path / "nri_sync" / "__init__.py").write_text(f'__version__ = "{package}"\n')
        (tmp_path / "CITATION.cff").write_text(f"cff-version: 1.2.0\nversion: {citation}\n")
        (tmp_path / "CHANGELOG.md").write_text(
            f"# Changelog\n\n## [{changelog}] - today\n\n## [1.0.0]\n"
        )
        if wrong:
            with pytest.raises(SystemExit, match=wrong):
                release.check_versions(tmp_path)
        else:
            release.check_versions(tmp_path)


def test_a_source_distribution_does_not_depend_on_the_build(tmp_path: Path) -> None:
    def sdist(names: list[str], mtime: int) -> bytes:
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in names:
                member = tarfile.TarInfo(f"nri_sync-1/{name}")
                member.size, member.mtime, member.uname = len(name), mtime, str(mtime)
                archive.addfile(member, io.BytesIO(name.encode()))
        return packed.getvalue()

    one = release.normalize(sdist(["a", "b"], 1), 1_700_000_000)
    assert one == release.normalize(sdist(["b", "a"], 2), 1_700_000_000)
    with tarfile.open(fileobj=io.BytesIO(one)) as archive:
        assert [member.name for member in archive] == ["nri_sync-1/a", "nri_sync-1/b"]
        assert {member.mtime for member in archive} == {1_700_000_000}
        extracted = archive.extractfile("nri_sync-1/b")
        assert extracted is not None
        assert extracted.read() == b"b"


class TestMutants:
    SOURCE = '''
def limit(size, most):
    """The smaller one."""
    if size > most and most:
        log.debug("cut")
        size = most
    return size + 1
'''

    def test_each_changes_one_thing(self, tmp_path: Path) -> None:
        module = tmp_path / "module.py"
        module.write_text(self.SOURCE)
        changes = {mutant.change for mutant in mutate.mutants(module)}
        assert changes == {
            "condition negated: not (size > most and most)",
            "size > most and most -> size > most or most",
            "size > most -> size >= most",
            "removed: size = most",
            "return size + 1 -> return None",
            "size + 1 -> size - 1",
            "1 -> 2",
        }
        before = ast.unparse(ast.parse(self.SOURCE)).splitlines()
        for mutant in mutate.mutants(module):
            after = mutant.source.splitlines()
            assert sum(one != two for one, two in zip(before, after)) == 1
            assert len(after) == len(before)

    def test_the_functions_around_a_change(self, tmp_path: Path) -> None:
        module = tmp_path / "module.py"
        module.write_text(
            "class Box:\n    @property\n    def size(self):\n        def inner():\n            return 1\n"
        )
        one, other = mutate.mutants(module)
        assert {one.change, other.change} == {"return 1 -> return None", "1 -> 2"}
        assert one.functions == other.functions == ((2, "size"), (4, "inner"))

    def test_exchanged_code_has_the_change(self, tmp_path: Path) -> None:
        path = tmp_path / "of_a_mutant.py"
        path.write_text(self.SOURCE)
        spec = importlib.util.spec_from_file_location("of_a_mutant", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert module.limit(3, 5) == 4
        minus = next(m for m in mutate.mutants(path) if m.change == "size + 1 -> size - 1")
        assert mutant_run.exchange(minus)
        assert module.limit(3, 5) == 2

    def test_the_tests_of_a_module(self) -> None:
        own, package = mutate.tests_of(mutate.ROOT / "nri_sync" / "wire" / "mux.py")
        assert own == ["tests/wire/test_mux.py", "tests/test_fork.py"]
        assert package == ["tests/wire"]


RACES = """
import threading

def work(done):
    done.append(len(str(abs(1))))

def test_that_needs_a_quick_machine():
    done = []
    threading.Thread(target=work, args=(done,)).start()
    assert done

def test_that_waits():
    done = threading.Event()
    threading.Thread(target=done.set).start()
    assert done.wait(60)
"""


@pytest.mark.parametrize("share", ["1", "0"])
def test_stalls_find_a_test_that_needs_a_quick_machine(tmp_path: Path, share: str) -> None:
    for folder in ("tools", "tests"):
        (tmp_path / folder).mkdir()
    shutil.copy(Path(run_tox.__file__).with_name("stalls.py"), tmp_path / "tools")
    # Without this file, the tools of the project itself would be found.
    (tmp_path / "tools" / "__init__.py").touch()
    (tmp_path / "tests" / "test_races.py").write_text(RACES)
    command = [sys.executable, "-m", "pytest", "-p", "tools.stalls", "-p", "no:cacheprovider", "-v"]
    options = ["--stall-seed", "7", "--stall-share", share, "--stall", "0.2"]
    run = subprocess.run(
        [*command, *options, "tests"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "--stall-seed 7" in run.stdout
    assert "test_that_waits PASSED" in run.stdout
    if share == "1":
        assert "test_that_needs_a_quick_machine FAILED" in run.stdout, run.stdout
        assert "work call" in run.stdout


class TestImage:
    @pytest.fixture
    def base(self, tmp_path: Path) -> Path:
        """A root file system with a Python, judged by its name."""
        path = tmp_path / "base.tar"
        with tarfile.open(path, "w") as archive:
            for name in (
                "./usr/bin/python3",
                "./usr/bin/python3.12",
                "./usr/bin/python3.12-config",
            ):
                archive.addfile(tarfile.TarInfo(name))
        return path

    @pytest.fixture
    def plugin(self, tmp_path: Path) -> Path:
        path = tmp_path / "my_plugin"
        path.mkdir()
        (path / "plugin.py").touch()
        return path

    def test_its_content(
        self, tmp_path: Path, base: Path, plugin: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def collect(plugin: Path, tree: Path, version: str, scratch: Path) -> None:
            assert version == "3.12"
            shutil.copytree(plugin, tree)

        monkeypatch.setattr(image, "collect", collect)
        target = tmp_path / "image.tar"
        assert image.main([str(plugin), str(target), "--base", str(base)]) == 0
        with tarfile.open(target) as archive:
            files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        (manifest,) = json.loads(files["manifest.json"])
        assert manifest["RepoTags"] == ["registry.example.com/nri-plugin-my-plugin:0.1.0"]
        config = json.loads(files[manifest["Config"]])
        assert config["config"]["Entrypoint"] == ["python", "/plugin/plugin.py"]
        digests = [hashlib.sha256(files[name]).hexdigest() for name in manifest["Layers"]]
        assert config["rootfs"]["diff_ids"] == [f"sha256:{digest}" for digest in digests]
        assert files[manifest["Layers"][0]] == base.read_bytes()
        with tarfile.open(fileobj=io.BytesIO(files[manifest["Layers"][1]])) as layer:
            assert layer.getmember("usr/local/bin/python").linkname == "/usr/bin/python3.12"
            assert layer.getmember("plugin/plugin.py").uid == 0

    @pytest.mark.parametrize(("version", "suite"), sorted(image.SUITES.items()))
    def test_the_release_of_debian_that_has_the_python(
        self,
        version: str,
        suite: str,
        tmp_path: Path,
        plugin: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def debootstrap(command: list[str], check: bool) -> None:
            assert command[-2] == suite
            assert f"--include=python{version},libstdc++6" in command
            with tarfile.open(command[-1], "w") as archive:
                archive.addfile(tarfile.TarInfo(f"./usr/bin/python{version}"))

        collected = []

        def collect(plugin: Path, tree: Path, version: str, scratch: Path) -> None:
            collected.append(version)
            tree.mkdir()

        monkeypatch.setattr(image, "CACHE", tmp_path / "cache")
        monkeypatch.setattr(image, "collect", collect)
        monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
        monkeypatch.setattr(subprocess, "run", debootstrap)
        arguments = [str(plugin), str(tmp_path / "image.tar"), "--python", version]
        assert image.main(arguments) == 0
        # The second call finds the root file system of the first.
        monkeypatch.setattr(subprocess, "run", None)
        assert image.main(arguments) == 0
        assert collected == [version, version]

    def test_a_packed_base(
        self, tmp_path: Path, base: Path, plugin: Path, monkeypatch: Any
    ) -> None:
        monkeypatch.setattr(image, "collect", lambda plugin, tree, *_: tree.mkdir())
        packed = tmp_path / "base.tar.gz"
        packed.write_bytes(gzip.compress(base.read_bytes()))
        target = tmp_path / "image.tar"
        assert image.main([str(plugin), str(target), "--base", str(packed), "--name", "x:1"]) == 0
        with tarfile.open(target) as archive:
            layer = hashlib.sha256(base.read_bytes()).hexdigest()
            assert f"{layer}/layer.tar" in archive.getnames()

    def test_unusable_arguments(
        self, tmp_path: Path, base: Path, plugin: Path, capsys: Any
    ) -> None:
        empty = tmp_path / "empty.tar"
        with tarfile.open(empty, "w"):
            pass
        for folder, root, text in (
            (tmp_path / "no", base, "no has no plugin.py"),
            (plugin, empty, "empty.tar has no /usr/bin/python3.N"),
            (plugin, tmp_path / "missing.tar", "No such file or directory"),
        ):
            target = tmp_path / "image.tar"
            assert image.main([str(folder), str(target), "--base", str(root)]) == 1
            assert text in capsys.readouterr().err
            assert not target.exists()
