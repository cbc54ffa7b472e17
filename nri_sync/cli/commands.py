"""The commands of ``nri-sync``: names, modules, and the examples that ``--help`` prints."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMANDS", "DOCS", "EXTRAS", "Command"]

#: The address of the documentation.
DOCS = "https://nri-sync.github.io/nri_sync/"
#: The extra of this package that installs a third-party package.
EXTRAS = {
    "prometheus_client": "metrics",
    "rich": "cli",
    "shtab": "cli",
    "tomli": "toml",
    "yaml": "cli",
}


class Command(NamedTuple):
    """One command."""

    summary: str
    #: Command lines for a shell.
    examples: tuple[str, ...]
    #: The name of the module in nri_sync.cli. Empty: the name of the command.
    module: str = ""


COMMANDS = {
    "demo": Command(
        "show a plugin, a pod, and the changes that the plugin makes to the pod",
        ("nri-sync demo",),
    ),
    "init": Command(
        "create a plugin project: plugin, tests, image, manifests",
        ("nri-sync init pod-name",),
        "new_project",
    ),
    "simulate": Command(
        "show the changes that plugins make to pods, without a container runtime",
        (
            "nri-sync simulate plugin.py -f pod.yaml",
            "nri-sync simulate plugin.py -c config.yaml -f pod.yaml --runtime containerd:1.7.28",
            "nri-sync simulate 10-one=one.py 20-two=two.py -f deployment.yaml -o json",
        ),
    ),
    "run": Command(
        "run a plugin on a container runtime",
        (
            "nri-sync run plugin.py",
            "nri-sync run plugin.py --config config.yaml --socket /tmp/nri.sock -v",
        ),
    ),
    "runtime": Command(
        "act as a container runtime for plugins, with the pods of a manifest and without real containers",
        (
            "nri-sync runtime --socket /tmp/nri.sock -f pod.yaml",
            "nri-sync runtime --socket /tmp/nri.sock -f pod.yaml --interval 5s --plugins ./plugins",
        ),
        "embedded_runtime",
    ),
    "events": Command(
        "watch the pods and containers of a container runtime",
        ("nri-sync events", "nri-sync events -n 'kube-*' -e createcontainer -o yaml"),
    ),
    "trace": Command(
        "show and record the messages between a runtime and its plugins",
        (
            "nri-sync trace --record web.jsonl",
            "nri-sync trace --socket /tmp/nri.sock -e createcontainer --full",
        ),
    ),
    "replay": Command(
        "send a recording to a plugin, and compare its answers",
        ("nri-sync replay web.jsonl plugin.py",),
    ),
    "doctor": Command(
        "find out why a plugin receives no events",
        ("nri-sync doctor", "nri-sync doctor --root /host --wait 30s"),
    ),
    "completion": Command(
        "print the completion script for a shell",
        (
            "nri-sync completion bash > ~/.local/share/bash-completion/completions/nri-sync",
            "nri-sync completion zsh > /usr/local/share/zsh/site-functions/_nri-sync",
            "nri-sync completion fish > ~/.config/fish/completions/nri-sync.fish",
        ),
    ),
}
