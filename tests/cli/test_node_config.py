"""Whether NRI is enabled, from the configuration files of runtimes and distributions."""

from __future__ import annotations

from pathlib import Path

import pytest

from nri_sync.cli.node_checks import Finding, Level
from nri_sync.cli.node_config import check_configuration

__all__: list[str] = []

PATH = "/var/run/nri/nri.sock"
NRI = "plugins.'io.containerd.nri.v1.nri'"


def written(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


class TestConfiguration:
    def only(self, root: Path) -> Finding:
        (found,) = check_configuration(root, PATH)
        return found

    def test_none(self, tmp_path: Path) -> None:
        assert self.only(tmp_path).level is Level.INFO

    @pytest.mark.parametrize(
        ("text", "level", "said"),
        [
            (f"[{NRI}]\ndisable = true\n", Level.PROBLEM, "disabled"),
            (f"[{NRI}]\ndisable = false\n", Level.OK, "enabled"),
            (f"[{NRI}]\ndisable_connections = true\n", Level.PROBLEM, "launches"),
            (
                "disabled_plugins = ['io.containerd.nri.v1.nri']\n",
                Level.PROBLEM,
                "disabled_plugins",
            ),
            ("version = 3\n", Level.INFO, "has no setting for NRI"),
            ("version = \n", Level.WARNING, "is not TOML"),
            (f"[{NRI}]\ndisable = false\nsocket_path = '{PATH}'\n", Level.OK, "enabled"),
        ],
    )
    def test_containerd(self, tmp_path: Path, text: str, level: Level, said: str) -> None:
        written(tmp_path, "etc/containerd/config.toml", text)
        found = self.only(tmp_path)
        assert (found.level, said in found.text) == (level, True), found
        assert found.advice or level is Level.OK

    def test_containerd_elsewhere(self, tmp_path: Path) -> None:
        text = f"[{NRI}]\ndisable = false\nsocket_path = '/run/other.sock'\n"
        written(tmp_path, "etc/containerd/config.toml", text)
        enabled, found = check_configuration(tmp_path, PATH)
        assert (enabled.level, found.level) == (Level.OK, Level.WARNING)
        assert "--socket /run/other.sock" in found.advice

    def test_containerd_with_imports(self, tmp_path: Path) -> None:
        main = "imports = ['/etc/containerd/conf.d/*.toml', 'near.toml']\n"
        written(tmp_path, "etc/containerd/config.toml", main + f"[{NRI}]\ndisable = true\n")
        written(tmp_path, "etc/containerd/conf.d/nri.toml", f"[{NRI}]\ndisable = false\n")
        found = self.only(tmp_path)
        assert (found.level, "nri.toml" in found.text) == (Level.OK, True)
        written(tmp_path, "etc/containerd/near.toml", f"[{NRI}]\ndisable = true\n")
        assert self.only(tmp_path).level is Level.PROBLEM

    @pytest.mark.parametrize(
        ("text", "level", "said"),
        [
            ("[crio.nri]\nenable_nri = false\n", Level.PROBLEM, "disabled"),
            ("[crio.nri]\nenable_nri = true\n", Level.OK, "enabled"),
            ("[crio.nri]\nnri_disable_connections = true\n", Level.PROBLEM, "launches"),
            ("[crio]\n", Level.INFO, "has no setting for NRI"),
        ],
    )
    def test_crio(self, tmp_path: Path, text: str, level: Level, said: str) -> None:
        written(tmp_path, "etc/crio/crio.conf", "[crio.nri]\n")
        written(tmp_path, "etc/crio/crio.conf.d/10-nri.conf", text)
        found = self.only(tmp_path)
        assert (found.level, said in found.text) == (level, True), found

    def test_crio_elsewhere_and_broken(self, tmp_path: Path) -> None:
        written(
            tmp_path, "etc/crio/crio.conf", "[crio.nri]\nnri_listen = '/run/x'\nenable_nri = true"
        )
        written(tmp_path, "etc/crio/crio.conf.d/99", "[")
        levels = [found.level for found in check_configuration(tmp_path, PATH)]
        assert levels == [Level.WARNING, Level.OK, Level.WARNING]


class TestDistributions:
    @pytest.mark.parametrize(
        ("path", "name", "change"),
        [
            ("var/lib/rancher/k3s/agent/etc/containerd/config.toml", "k3s", "config-v3.toml.tmpl"),
            ("var/lib/rancher/rke2/agent/etc/containerd/config.toml", "RKE2", "rke2-agent"),
            ("etc/k0s/containerd.toml", "k0s", "/etc/k0s/containerd.d/nri.toml"),
            ("var/snap/microk8s/current/args/containerd.toml", "MicroK8s", "containerd-template"),
            ("etc/cri/containerd.toml", "Talos", "machine.files"),
        ],
    )
    def test_each(self, tmp_path: Path, path: str, name: str, change: str) -> None:
        written(tmp_path, path, f"version = 2\n[{NRI}]\ndisable = true\n")
        (found,) = check_configuration(tmp_path, PATH)
        assert (found.level, found.check) == (Level.PROBLEM, name)
        assert change in found.advice

    def test_imports_of_talos_and_k0s(self, tmp_path: Path) -> None:
        for directory in ("etc/cri/conf.d", "etc/k0s/containerd.d"):
            written(tmp_path, f"{directory}/nri.part", f"[{NRI}]\ndisable = false\n")
        for path, pattern in (
            ("etc/cri/containerd.toml", "/etc/cri/conf.d/*.part"),
            ("etc/k0s/containerd.toml", "/etc/k0s/containerd.d/*.part"),
        ):
            written(tmp_path, path, f"version = 3\nimports = ['{pattern}']\n")
        assert [f.level for f in check_configuration(tmp_path, PATH)] == [Level.OK, Level.OK]

    def test_kind(self, tmp_path: Path) -> None:
        written(tmp_path, "kind/version", "v1.33.1")
        written(tmp_path, "etc/containerd/config.toml", f"version = 3\n[{NRI}]\ndisable = true\n")
        (found,) = check_configuration(tmp_path, PATH)
        assert (found.check, "containerdConfigPatches" in found.advice) == ("kind", True)


class TestMisplaced:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("plugin_request_timeout = '20s'\n", "plugin_request_timeout is outside all tables"),
            (
                "[plugins.'io.containerd.cri.v1.runtime']\nplugin_registration_timeout = '9s'\n",
                "plugin_registration_timeout is in [plugins.'io.containerd.cri.v1.runtime']",
            ),
            (
                "[timeouts]\nplugin_request_timeout = '20s'\n",
                "is in [timeouts], where it has no effect",
            ),
            (
                "['io.containerd.nri.v1.nri']\nx = 1\n",
                "the table ['io.containerd.nri.v1.nri'] has no",
            ),
            ("[plugins.nri]\ndisable = false\n", "the table [plugins.nri] has no effect"),
            (
                "[plugins.'io.containerd.grpc.v1.nri']\nx = 1\n",
                "the table [plugins.'io.containerd.grpc",
            ),
        ],
    )
    def test_in_containerd(self, tmp_path: Path, text: str, said: str) -> None:
        path = "etc/containerd/config.toml"
        # A setting outside all tables has to come first.
        written(tmp_path, path, f"version = 2\n{text}[{NRI}]\ndisable = false\n")
        enabled, misplaced = check_configuration(tmp_path, PATH)
        assert (enabled.level, misplaced.level) == (Level.OK, Level.WARNING)
        assert said in misplaced.text
        assert f"[{NRI}]" in misplaced.advice

    def test_in_an_imported_file(self, tmp_path: Path) -> None:
        text = f"version = 2\nimports = ['n.toml']\n[{NRI}]\ndisable = false\n"
        written(tmp_path, "etc/containerd/config.toml", text)
        written(tmp_path, "etc/containerd/n.toml", "plugin_request_timeout = '20s'\n")
        _, misplaced = check_configuration(tmp_path, PATH)
        assert misplaced.text.startswith(
            f"{tmp_path}/etc/containerd/n.toml: plugin_request_timeout"
        )

    def test_the_short_name_in_version_1(self, tmp_path: Path) -> None:
        text = "[plugins.nri]\ndisable = false\nplugin_request_timeout = '20s'\n"
        written(tmp_path, "etc/containerd/config.toml", text)
        (found,) = check_configuration(tmp_path, PATH)
        assert found.level is Level.OK

    def test_settings_of_the_same_name_of_others(self, tmp_path: Path) -> None:
        text = f"[plugins.other]\nplugin_path = '/x'\n[{NRI}]\ndisable = false\n"
        written(tmp_path, "etc/containerd/config.toml", f"version = 2\n{text}")
        (found,) = check_configuration(tmp_path, PATH)
        assert found.level is Level.OK

    def test_in_crio(self, tmp_path: Path) -> None:
        text = "[crio.runtime]\nnri_plugin_request_timeout = '20s'\n[crio.nri]\nenable_nri = true\n"
        written(tmp_path, "etc/crio/crio.conf", text)
        misplaced, enabled = check_configuration(tmp_path, PATH)
        assert "nri_plugin_request_timeout is in [crio.runtime]" in misplaced.text
        assert misplaced.advice.startswith("move it to [crio.nri]")
        assert enabled.level is Level.OK

    @pytest.mark.parametrize("value", ["'soon'", "20", "'-1s'", "'0s'", "true"])
    def test_invalid_timeouts(self, tmp_path: Path, value: str) -> None:
        text = f"version = 2\n[{NRI}]\ndisable = false\nplugin_request_timeout = {value}\n"
        written(tmp_path, "etc/containerd/config.toml", text)
        _, found = check_configuration(tmp_path, PATH)
        assert (found.level, "is no duration" in found.text) == (Level.PROBLEM, True)
