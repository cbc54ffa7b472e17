"""``nri-sync simulate``: shows the changes that plugins make to pods, without a container runtime."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Callable

from rich.console import Console
from rich.progress import Progress

from nri_sync import api
from nri_sync.cli.console import add_output_options, console, print_whole
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.loading import DEFAULT_INDEX, PLUGIN_HELP, identity, load_program
from nri_sync.cli.simulation_view import show
from nri_sync.errors import ConfigError, IdentityError, NRIError, PluginError
from nri_sync.kit import Quantity, parse_duration
from nri_sync.kit.program.definition import config_error
from nri_sync.testing.manifests import Assumptions, ManifestError, Workload, check_ids, load
from nri_sync.testing.simulation import NotSynchronized, SimulatedPlugin, Simulation, simulate

__all__ = ["add_node_options", "add_view_options", "configure", "present", "run", "workloads_of"]

# A simulation with fewer pods and containers ends before a user could read a progress bar.
_WITH_A_BAR = 500


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "plugins", metavar="PLUGIN", nargs="+",
        help=f"{PLUGIN_HELP}; a prefix NN-name= sets its index and its name",
    )  # fmt: skip
    parser.add_argument(
        "-f", "--file", action="append", required=True, metavar="FILE",
        help="pods: Kubernetes manifests, output of crictl inspectp and inspect, or OCI's config.json; - is "
        "standard input; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "-e", "--existing", action="append", default=[], metavar="FILE",
        help="pods that already run when the plugins connect",
    )  # fmt: skip
    parser.add_argument(
        "--resize", action="append", metavar="FILE",
        help="the same pods with other resources, to which they are resized in place, and no others; default: "
        "each grows to the resources that it has",
    )  # fmt: skip
    parser.add_argument(
        "-c", "--config", action="append", default=[], metavar="[NN-name=]FILE",
        help="configuration of the plugin, or of the plugin NN-name",
    )  # fmt: skip
    add_view_options(parser)
    parser.add_argument(
        "--repeat",
        type=_count,
        default=1,
        metavar="N",
        help="run each pod's lifecycle N times, to measure the durations",
    )
    parser.add_argument(
        "--containers",
        type=_count,
        default=1,
        metavar="N",
        help="repeat each ordinary container N times",
    )
    parser.add_argument(
        "--request-timeout", type=_seconds, default=api.DEFAULT_REQUEST_TIMEOUT, metavar="DURATION",
        help="time limit for an answer of a plugin (default: %(default)g s)",
    )  # fmt: skip
    add_node_options(parser)


def add_node_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`workloads_of` reads, and ``--runtime``."""
    node = parser.add_argument_group("the node")
    node.add_argument(
        "--runtime", type=_runtime, metavar="NAME:VERSION",
        help="act as this runtime, for example containerd:1.7.28 or cri-o:1.33.2: fields that its NRI release "
        "does not know have no effect, and the output names them (default: the newest release)",
    )  # fmt: skip
    node.add_argument("--cgroup", choices=("v1", "v2"), default="v2", help="default: %(default)s")
    node.add_argument(
        "--cgroup-driver",
        choices=("systemd", "cgroupfs"),
        default="systemd",
        help="default: %(default)s",
    )
    node.add_argument("--cpus", type=_count, default=8, metavar="N", help="default: %(default)s")
    node.add_argument(
        "--memory", type=_bytes, default="16Gi", metavar="QUANTITY", help="default: %(default)s"
    )


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`present` reads."""
    parser.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="show also events without an effect, and the assumptions",
    )
    add_output_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the simulation has ended."""
    workloads = workloads_of(arguments.file, arguments)
    existing = workloads_of(arguments.existing, arguments) if arguments.existing else []
    resize = None if arguments.resize is None else workloads_of(arguments.resize, arguments)
    try:
        check_ids([*existing, *workloads])
    except ManifestError as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    plugins = _plugins(arguments.plugins, arguments.config)
    total = arguments.repeat * sum(1 + len(workload.containers) for workload in workloads)
    err = console(argparse.Namespace(color=arguments.color), sys.stderr)
    watched = err.is_terminal and total * arguments.containers >= _WITH_A_BAR
    with _bar(err if watched else None) as advance:
        simulation = _simulate(
            lambda: simulate(
                plugins,
                workloads,
                existing=existing,
                resize=resize,
                repeat=arguments.repeat,
                containers=arguments.containers,
                request_timeout=arguments.request_timeout,
                runtime=arguments.runtime,
                progress=advance,
            )
        )
    return present(simulation, arguments)


@contextmanager
def _bar(err: Console | None) -> Iterator[Callable[[int, int], object] | None]:
    """Show a progress bar on ``err``; yields the function that advances it."""
    if err is None:
        # Progress(disable=True) prints a newline to a console that is not a terminal.
        yield None
        return
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("pods and containers", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def present(simulation: Simulation, arguments: argparse.Namespace) -> int:
    """Print the simulation; returns the exit code."""
    if arguments.output == "table":
        show(simulation, console(arguments), everything=arguments.all)
    else:
        print_whole(simulation.plain(), arguments.output)
    return ExitCode.FOUND if simulation.failed else ExitCode.OK


def _simulate(run: Callable[[], Simulation]) -> Simulation:
    try:
        return run()
    except ConfigError as error:
        raise CommandError(str(error), ExitCode.CONFIG) from error
    except (IdentityError, ValueError) as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except PluginError as error:
        raise CommandError(str(error), ExitCode.PLUGIN) from error
    except NotSynchronized as error:
        raise CommandError(str(error), ExitCode.CRASHED) from error
    except NRIError as error:
        refused = config_error(error)
        if refused is not None:
            raise CommandError(str(refused), ExitCode.CONFIG) from error
        raise CommandError(str(error), ExitCode.REJECTED) from error


def workloads_of(files: Iterable[str], arguments: argparse.Namespace) -> list[Workload]:
    """The pods of the manifests, on the node that the arguments describe.

    Raises CommandError for a file that has none.
    """
    runtime = "containerd" if arguments.runtime is None else arguments.runtime[0]
    assumptions = Assumptions(
        runtime=runtime,
        cgroup_version=int(arguments.cgroup[1:]),
        systemd_cgroups=arguments.cgroup_driver == "systemd",
        cpus=arguments.cpus,
        memory=arguments.memory,
    )
    try:
        found = load(
            *(file if file == "-" else Path(file) for file in files), assumptions=assumptions
        )
    except ManifestError as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    return found


def _plugins(targets: Sequence[str], configs: Iterable[str]) -> list[SimulatedPlugin]:
    """The plugins. The default indices are 10, 20 and so on."""
    config_paths = dict(_named(config) for config in configs)
    plugins = []
    for number, target in enumerate(targets, 1):
        named, where = _named(target)
        program = load_program(where)
        idx, name = named.split("-", 1) if named else identity(where, program)
        if not named and program.idx is None and idx == DEFAULT_INDEX:
            idx = f"{min(10 * number, 99):02d}"
        config = config_paths.pop(f"{idx}-{name}", None) or config_paths.pop(name, None)
        if config is None and len(targets) == 1:
            config = config_paths.pop("", None)
        plugins.append(SimulatedPlugin(program, name, idx, config_path=config))
    if config_paths:
        unused, path = next(iter(config_paths.items()))
        names = ", ".join(plugin.full_name for plugin in plugins)
        raise CommandError(
            f"--config {unused and unused + '='}{path}: does not name its plugin; name one of {names}",
            ExitCode.USAGE,
        )
    return plugins


def _named(text: str) -> tuple[str, str]:
    """Splits ``NN-name=rest``; the first part is empty if the text has no such prefix."""
    name, equals, rest = text.partition("=")
    if equals and re.fullmatch(r"[0-9]{2}-[^/]+|[A-Za-z0-9-]+", name):
        return name, rest
    return "", text


def _runtime(text: str) -> tuple[str, str]:
    # The kubelet, and therefore kubectl, writes containerd://1.7.28.
    name, colon, version = text.replace("://", ":", 1).partition(":")
    if not colon or api.infer_nri_version(name, version) is None:
        raise argparse.ArgumentTypeError(
            f"must be containerd or cri-o and a version with NRI, such as containerd:1.7.28, not {text!r}"
        )
    return name, version


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of at least 1, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _bytes(text: str) -> int:
    try:
        return int(Quantity.parse(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
