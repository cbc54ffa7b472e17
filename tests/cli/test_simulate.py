"""``nri-sync simulate``: its output, and its errors for invalid input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nri_sync.cli import main
from nri_sync.cli.errors import ExitCode

__all__: list[str] = []

POD = """
apiVersion: v1
kind: Pod
metadata: {name: web, annotations: {label.example.com: blue}}
spec:
  containers:
    - {name: nginx, image: "nginx:1.29"}
"""
PLUGIN = """
from dataclasses import dataclass
from nri_sync import api

@dataclass
class Settings:
    name: str = "LABEL"

class Labeller:
    Config = Settings

    def create_container(self, pod, container):
        if pod.annotations["label.example.com"] == "none":
            raise ValueError("no label")
        return api.Adjustment().add_env(self.config.name, pod.annotations["label.example.com"])
"""


@pytest.fixture
def pod(tmp_path: Path) -> str:
    path = tmp_path / "pod.yaml"
    path.write_text(POD)
    return str(path)


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    path = tmp_path / "labeller.py"
    path.write_text(PLUGIN)
    return str(path)


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["simulate", *arguments])
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    code = main(["simulate", *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("nri-sync simulate: ")
    assert err.count("\n") == 1
    return code, err


class TestShown:
    def test_changes_and_their_owners(
        self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, out = shown(capsys, plugin, "-f", pod)
        assert code == ExitCode.OK
        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "10-labeller subscribes to CreateContainer" in lines
        assert f"Pod default/web BestEffort from {pod}" in lines
        assert "+ process.env[LABEL] blue 10-labeller" in lines

    def test_a_configuration(
        self, plugin: str, pod: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "config.json"
        config.write_text('{"name": "COLOUR"}')
        for option in (str(config), f"labeller={config}", f"10-labeller={config}"):
            _, out = shown(capsys, plugin, "-f", pod, "--config", option)
            assert "process.env[COLOUR]" in out

    def test_a_conflict(self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]) -> None:
        code, out = shown(capsys, f"15-one={plugin}", f"25-two={plugin}", "-f", pod)
        assert code == ExitCode.FOUND
        assert 'x conflict: plugins "25-two" and "15-one" both tried to set Env LABEL' in out
        assert "1 failed" in out

    def test_an_error_of_the_plugin(
        self, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        manifest = tmp_path / "none.yaml"
        manifest.write_text(POD.replace("blue", "none"))
        code, out = shown(capsys, plugin, "-f", str(manifest))
        assert code == ExitCode.FOUND
        assert "x error: " in out
        assert "no label" in out
        assert "Traceback" not in out
        _, out = shown(capsys, plugin, "-f", str(manifest), "--all")
        assert 'raise ValueError("no label")' in out

    def test_all_events_and_assumptions(
        self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        _, out = shown(capsys, plugin, "-f", pod)
        assert "RemovePodSandbox" not in out
        _, out = shown(capsys, plugin, "-f", pod, "--all")
        assert "RemovePodSandbox" in out
        assert "assumed: " in out

    def test_many_times(self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]) -> None:
        _, out = shown(capsys, plugin, "-f", pod, "--repeat", "3", "--containers", "2")
        [line] = [
            line for line in out.splitlines() if line.startswith("10-labeller  CreateContainer")
        ]
        assert line.split()[2:4] == ["6", "0"]

    def test_json(self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]) -> None:
        code, out = shown(capsys, plugin, "-f", pod, "-o", "json")
        assert code == ExitCode.OK
        [report] = json.loads(out)["pods"]
        [created] = [event["created"] for event in report["events"] if event["created"]]
        assert created["changes"] == [
            {"path": "process.env[LABEL]", "before": None, "after": "blue", "owner": "10-labeller"}
        ]

    def test_of_another_node(
        self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        parents = []
        for driver in ("systemd", "cgroupfs"):
            _, out = shown(capsys, plugin, "-f", pod, "-o", "json", "--cgroup-driver", driver)
            [event] = [e for e in json.loads(out)["pods"][0]["events"] if e["created"]]
            parents.append(event["created"]["before"]["linux"]["cgroupsPath"])
        assert ".slice:" in parents[0]
        assert parents[1].startswith("/kubepods/besteffort/pod")


def test_an_exception_is_shown_once(plugin: str, tmp_path: Path) -> None:
    manifest = tmp_path / "none.yaml"
    manifest.write_text(POD.replace("blue", "none"))
    command = [sys.executable, "-m", "nri_sync", "simulate", plugin, "-f", str(manifest)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == ExitCode.FOUND
    assert done.stderr == ""
    done = subprocess.run([*command, "--traceback"], stderr=subprocess.PIPE, text=True)
    assert "Traceback" in done.stderr


class TestRefused:
    def test_a_configuration_that_is_needed_and_missing(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        text = (
            "import dataclasses\nfrom nri_sync import kit\n@dataclasses.dataclass\n"
            "class Config:\n    needed: str\n"
            "class P:\n    def create_container(self, pod, container):\n        pass\n"
            "PROGRAM = kit.Program(P, config=Config)\n"
        )
        (tmp_path / "p.py").write_text(text)
        (tmp_path / "pod.yaml").write_text(
            "{apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {containers: [{name: b, image: c}]}}"
        )
        arguments = ["simulate", str(tmp_path / "p.py"), "-f", str(tmp_path / "pod.yaml")]
        assert main(arguments) == ExitCode.CONFIG
        error = capsys.readouterr().err
        assert "needed: missing" in error
        assert "Aborted" not in error

    def test_no_yaml(self, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = tmp_path / "broken.yaml"
        path.write_text("a: [1\nb: }")
        code, err = refused(capsys, plugin, "-f", str(path))
        assert code == ExitCode.INPUT
        assert "broken.yaml: is not YAML: line 2" in err

    def test_a_pod_without_containers(
        self, plugin: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = tmp_path / "empty.yaml"
        path.write_text(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: empty}\nspec: {containers: []}\n"
        )
        code, err = refused(capsys, plugin, "-f", str(path))
        assert code == ExitCode.INPUT
        assert "spec.containers" in err

    def test_no_file(self, plugin: str, capsys: pytest.CaptureFixture[str]) -> None:
        code, err = refused(capsys, plugin, "-f", "/no/such.yaml")
        assert code == ExitCode.INPUT
        assert "/no/such.yaml" in err

    def test_no_plugin(self, pod: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert refused(capsys, "/no/plugin.py", "-f", pod)[0] == ExitCode.PLUGIN

    def test_two_of_the_same_name(
        self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, err = refused(capsys, f"10-x={plugin}", f"10-x={plugin}", "-f", pod)
        assert code == ExitCode.USAGE
        assert "two plugins have the full name 10-x" in err

    def test_a_wrong_configuration(
        self, plugin: str, pod: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        config = tmp_path / "config.json"
        config.write_text('{"nmae": "COLOUR"}')
        code, err = refused(capsys, plugin, "-f", pod, "--config", str(config))
        assert code == ExitCode.CONFIG
        assert 'did you mean "name"?' in err

    def test_a_configuration_without_a_plugin(
        self, plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        code, err = refused(capsys, plugin, "-f", pod, "--config", "other=x.json")
        assert code == ExitCode.USAGE
        assert "name one of 10-labeller" in err

    @pytest.mark.parametrize(
        "option", [["--repeat", "0"], ["--memory", "much"], ["--request-timeout", "soon"]]
    )
    def test_options(
        self, plugin: str, pod: str, option: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as end:
            main(["simulate", plugin, "-f", pod, *option])
        assert end.value.code == ExitCode.USAGE
        assert option[0] in capsys.readouterr().err


def test_a_runtime_as_the_kubelet_names_it(
    plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown_as = [
        shown(capsys, plugin, "-f", pod, "-o", "json", "--runtime", f"containerd{separator}1.7.28")
        for separator in (":", "://")
    ]
    codes, outputs = zip(*shown_as)
    assert codes == (ExitCode.OK, ExitCode.OK)
    warnings = [
        [event["warnings"] for item in json.loads(output)["pods"] for event in item["events"]]
        for output in outputs
    ]
    assert warnings[0] == warnings[1]


@pytest.mark.parametrize(
    ("runtime", "annotation"),
    [
        ("cri-o:1.34.1", "io.kubernetes.cri-o.SandboxID"),
        ("containerd:2.2.0", "io.kubernetes.cri.sandbox-id"),
    ],
)
def test_containers_are_those_of_the_runtime(
    plugin: str, pod: str, runtime: str, annotation: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _, output = shown(capsys, plugin, "-f", pod, "-o", "json", "--runtime", runtime)
    [found] = json.loads(output)["pods"]
    [created] = [item["created"] for item in found["events"] if item["name"] == "CreateContainer"]
    assert annotation in created["after"]["annotations"]


class TestResize:
    MANIFEST = """\
kind: Pod
metadata: {name: web}
spec:
  containers:
    - {name: app, image: busybox, resources: {requests: {cpu: 100m}, limits: {cpu: %s}}}
"""

    def manifest(self, directory: Path, name: str, limit: str) -> str:
        path = directory / f"{name}.yaml"
        path.write_text(self.MANIFEST % limit)
        return str(path)

    @pytest.mark.parametrize(
        ("limit", "updates"),
        [
            ("100m", []),
            ("200m", ["UpdatePodSandbox", "UpdateContainer"]),
            ("150m", ["UpdateContainer", "UpdatePodSandbox"]),
        ],
    )
    def test_in_the_order_of_the_kubelet(
        self,
        plugin: str,
        tmp_path: Path,
        limit: str,
        updates: list[str],
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        before = {"200m": "150m", "150m": "200m"}.get(limit, "100m")
        files = [self.manifest(tmp_path, *item) for item in (("before", before), ("after", limit))]
        code, output = shown(capsys, plugin, "-f", files[0], "--resize", files[1], "-o", "json")
        assert code == ExitCode.OK
        [pod] = json.loads(output)["pods"]
        found = [item["name"] for item in pod["events"] if item["name"].startswith("Update")]
        assert found == updates

    def test_of_a_pod_that_is_not_there(
        self, plugin: str, pod: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = tmp_path / "other.yaml"
        other.write_text((self.MANIFEST % "1").replace("web", "other"))
        code, err = refused(capsys, plugin, "-f", pod, "--resize", str(other))
        assert code == ExitCode.USAGE
        assert "there is no pod default/other to resize; there are: default/web" in err


def test_a_pod_that_is_there_already(
    plugin: str, pod: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = refused(capsys, plugin, "-f", pod, "-e", pod)
    assert code == ExitCode.INPUT
    assert f"is in {pod}, too" in err
