"""The commands of ``nri-sync``: their names, their modules, and examples of each for ``--help``."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["COMMANDS", "DOCS", "EXTRAS", "Command"]

#: Where the documentation is.
DOCS = "https://nri-sync.github.io/nri_sync/"
#: The extra that brings a package.
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
    #: Lines for a shell.
    examples: tuple[str, ...]
    #: In nri_sync.cli, where the module has another name than the command.
    module: str = ""


COMMANDS = {
    "demo": Command(
        "show a plugin, a pod, and the difference that the plugin makes to the pod",
        ("nri-sync demo",),
    ),
    "init": Command(
        "begin a plugin project: plugin, tests, image, manifests",
        ("nri-sync init pod-name",),
        "new_project",
    ),
    "simulate": Command(
        "show what plugins do to pods, without a container runtime",
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
        "be a container runtime for plugins: with the pods of a manifest, and no containers",
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
        "show and record what a runtime and a plugin say to each other",
        (
            "nri-sync trace --record web.jsonl",
            "nri-sync trace --socket /tmp/nri.sock -e createcontainer --full",
        ),
    ),
    "replay": Command(
        "feed a recording to a plugin, and compare its answers",
        ("nri-sync replay web.jsonl plugin.py",),
    ),
    "doctor": Command(
        "find out why a plugin gets no events",
        ("nri-sync doctor", "nri-sync doctor --root /host --wait 30s"),
    ),
    "completion": Command(
        "print what makes a shell complete the words of nri-sync",
        (
            "nri-sync completion bash > ~/.local/share/bash-completion/completions/nri-sync",
            "nri-sync completion zsh > /usr/local/share/zsh/site-functions/_nri-sync",
            "nri-sync completion fish > ~/.config/fish/completions/nri-sync.fish",
        ),
    ),
}
