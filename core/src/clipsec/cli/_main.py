"""The `clipsec` command: a group whose verbs are imported on use, and one place for expected errors.

Nothing here may import torch: `clipsec list` and `clipsec --help` answer before it would have loaded.
"""

from __future__ import annotations

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from clipsec.errors import ClipsecError
from clipsec_registry import PluginError

_VERBS = {
    "attack": (
        "clipsec.cli._attack",
        "attack_command",
        "Make a poisoned model and its trigger card, to test detectors with.",
    ),
    "bench": (
        "clipsec.cli._bench",
        "bench_command",
        "Measure detectors on a suite of clean and poisoned models.",
    ),
    "diff": ("clipsec.cli._diff", "diff_command", "Compare two runs of one model."),
    "doctor": (
        "clipsec.cli._doctor",
        "doctor_command",
        "What is installed, devices, thread settings, safe micro-batches.",
    ),
    "expose": (
        "clipsec.cli._expose",
        "expose_command",
        "Through which uses of a model a trigger hurts.",
    ),
    "list": (
        "clipsec.cli._list",
        "list_command",
        "Every plugin: kind, name, version, whose, status and why.",
    ),
    "plugin": ("clipsec.cli._plugin", "plugin_group", "Write, check and trust plugins."),
    "repair": (
        "clipsec.cli._repair",
        "repair_command",
        "Make a repaired model from a finding; before and after.",
    ),
    "report": ("clipsec.cli._report", "report_command", "Render a finished run again."),
    "run": ("clipsec.cli._run", "run_command", "Inspect delivered models; exit code for CI."),
}

INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one when it is invoked."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, attribute, _ = _VERBS[cmd_name]
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, _VERBS[verb][2]) for verb in sorted(_VERBS)])

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run; expected errors become two sentences on stderr and their exit code, without a traceback.

        click's own usage errors exit with 2, which is our code for an error; ours for usage is 4. An error
        that nobody expected would end Python with 1, which is our code for a finding; it is 2 too.
        """
        kwargs["standalone_mode"] = False
        try:
            code = super().main(*args, **kwargs)
        except SystemExit:  # click's and rich's answer to a pipe that nobody reads any more, with code 1
            code = 2
        except click.exceptions.Exit as stop:
            code = stop.exit_code
        except click.UsageError as error:
            error.show()
            code = 4
        except click.ClickException as error:
            error.show()
            code = 2
        except (click.Abort, KeyboardInterrupt):
            click.echo(
                "Interrupted; what was finished is stored, the same command goes on from there.", err=True
            )
            code = INTERRUPTED
        except (ClipsecError, PluginError) as error:
            _say(str(error), error.remedy)
            code = getattr(error, "exit_code", 2)
        except Exception as error:
            _say(*_unexpected(error))
            code = 2
        sys.exit(code if isinstance(code, int) else 0)


def _say(error: str, remedy: str) -> None:
    """The error that is being handled in two sentences, with `--debug` behind its traceback."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    click.echo(f"{click.style('Error:', fg='red', bold=True)} {printable(error)}", err=True)
    if remedy:
        click.echo(f"{click.style('What to do:', bold=True)} {printable(remedy)}", err=True)


def _unexpected(error: Exception) -> tuple[str, str]:
    """What the system refused (a full disk, no rights) is the user's to mend, the rest is ours."""
    if isinstance(error, OSError | MemoryError):
        return (
            str(error) or "there is too little memory",
            "Check the disk, the memory and your rights, then run the same command again.",
        )
    return (
        f"clipsec failed, which it should not: {type(error).__name__}: {error}",
        "Report it with what the same command prints as `clipsec --debug ...`.",
    )


def printable(text: str) -> str:
    """Text from files and plugins without control characters, which could drive the terminal."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(package_name="clipsec")
@click.option("--debug", is_flag=True, help="Show the traceback of expected errors too.")
def main(debug: bool) -> None:
    """Audit CLIP models that somebody else delivered.

    Exit codes: 0 clean, 1 finding, 2 error or inconclusive, 3 nothing ran, 4 usage.
    """
