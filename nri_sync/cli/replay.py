"""``nri-sync replay``: a recording played to a plugin, to see whether it acts as before."""

from __future__ import annotations

import argparse

from nri_sync.cli.console import Console, Text, add_output_options, console, print_whole
from nri_sync.cli.errors import CommandError, ExitCode
from nri_sync.cli.loading import PLUGIN_HELP, load_program
from nri_sync.errors import ConfigError
from nri_sync.kit.config.durations import parse_duration
from nri_sync.kit.program.definition import Unusable
from nri_sync.testing.recordings.entries import REQUEST
from nri_sync.testing.recordings.files import Recording, RecordingError
from nri_sync.testing.recordings.replaying import Difference, replay

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recording", metavar="RECORDING", help="made by nri-sync trace --record")
    parser.add_argument("plugin", metavar="PLUGIN", help=PLUGIN_HELP)
    parser.add_argument(
        "--connection", type=int, metavar="N", help="which one, if several have been recorded"
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE",
        help="the configuration of the plugin (default: what the runtime has sent it)",
    )  # fmt: skip
    parser.add_argument(
        "--speed", type=_positive, metavar="FACTOR",
        help="keep the pauses of the recording: 1 as they were, 10 a tenth of them (default: none)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=_seconds, default="20s", metavar="DURATION",
        help="for each answer of the plugin (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--update", action="store_true",
        help="put the answers that differ into the recording, in place of those it has",
    )  # fmt: skip
    add_output_options(parser)


def _positive(text: str) -> float:
    factor = float(text)
    if not factor > 0:
        raise ValueError(text)
    return factor


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the recording has been played."""
    try:
        recording = Recording.read(arguments.recording)
    except OSError as error:
        raise CommandError(f"{arguments.recording}: {error.strerror}", ExitCode.INPUT) from error
    except RecordingError as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    program = load_program(arguments.plugin)
    try:
        differences = replay(
            recording,
            program,
            connection=arguments.connection,
            config_path=arguments.config,
            speed=arguments.speed,
            timeout=arguments.timeout,
            update=arguments.update,
        )
    except ConfigError as error:
        raise CommandError(str(error), ExitCode.CONFIG) from error
    except Unusable as error:
        raise CommandError(str(error), ExitCode.USAGE) from error
    except ValueError as error:
        raise CommandError(str(error), ExitCode.INPUT) from error
    if arguments.update and differences:
        try:
            recording.write()
        except OSError as error:
            raise CommandError(
                f"{arguments.recording}: cannot be written: {error.strerror}", ExitCode.INPUT
            ) from error
    if arguments.output != "table":
        print_whole(
            [
                {"what": d.what, "time": d.time, "recorded": d.recorded, "now": d.now}
                for d in differences
            ],
            arguments.output,
        )
    else:
        chosen = arguments.connection
        requests = sum(
            entry.kind == REQUEST and chosen in (None, entry.connection)
            for entry in recording.entries
        )
        _show(console(arguments), differences, requests, arguments.update)
    return ExitCode.FOUND if differences and not arguments.update else ExitCode.OK


def _show(out: Console, differences: list[Difference], requests: int, updated: bool) -> None:
    for difference in differences:
        out.print(
            Text()
            .append(difference.what, style="bold")
            .append(f"  {difference.time:.3f} s into the recording", style="dim")
        )
        # The names of the two sides, once for all.
        for line in difference.diff.split("\n")[2:]:
            style = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1], "")
            out.print(Text.whole(f"  {line}", style=style))
        out.print()
    if not differences:
        out.print(Text(f"{requests} requests, and the plugin answers as recorded", style="green"))
        return
    count = "1 difference" if len(differences) == 1 else f"{len(differences)} differences"
    end = "the recording has been updated" if updated else "- as recorded, + as it is now"
    out.print(Text(f"{requests} requests, {count}: {end}", style="yellow" if updated else "red"))
