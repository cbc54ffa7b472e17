"""``nri-sync replay``: sends a recording to a plugin, and compares its answers with the recorded ones."""

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
from nri_sync.testing.recordings.replaying import Difference, check_speed, replay

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recording", metavar="RECORDING", help="a file from nri-sync trace --record"
    )
    parser.add_argument("plugin", metavar="PLUGIN", help=PLUGIN_HELP)
    parser.add_argument(
        "--connection", type=int, metavar="N", help="the connection, if the recording has several"
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE",
        help="configuration of the plugin (default: the configuration that the runtime sent)",
    )  # fmt: skip
    parser.add_argument(
        "--speed", type=_speed, metavar="FACTOR",
        help="keep the pauses of the recording: 1 unchanged, 10 a tenth of each (default: no pauses)",
    )  # fmt: skip
    parser.add_argument(
        "--timeout", type=_seconds, default="20s", metavar="DURATION",
        help="time limit for each answer of the plugin (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--update", action="store_true",
        help="replace the recorded answers that differ by the new ones",
    )  # fmt: skip
    add_output_options(parser)


def _speed(text: str) -> float:
    try:
        return check_speed(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def run(arguments: argparse.Namespace) -> int:
    """Blocks until the whole recording has been sent."""
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
        # The diff begins with the names of its two sides; the last line of the output explains them once.
        for line in difference.diff.split("\n")[2:]:
            style = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1], "")
            out.print(Text.whole(f"  {line}", style=style))
        out.print()
    if not differences:
        out.print(Text(f"{requests} requests, all answers as recorded", style="green"))
        return
    count = "1 difference" if len(differences) == 1 else f"{len(differences)} differences"
    end = "the recording has been updated" if updated else "- recorded, + now"
    out.print(Text(f"{requests} requests, {count}: {end}", style="yellow" if updated else "red"))
