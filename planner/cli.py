"""The command line: lazy commands, and the only place where an error becomes text and an exit code."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

import click

from planner.errors import PlannerError

COMMANDS = (
    "init", "doctor", "measure", "profiles", "solve", "check", "explain", "emit", "verify", "report", "schema",
)  # fmt: skip
INTERRUPTED = 130
INTERNAL_ERROR = 1
LOG_LINES_SHOWN = 20


class LazyGroup(click.Group):
    """Loads the module of a command only when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"planner.commands.{cmd_name}")
        command: click.Command = module.command
        return command


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="planner")
def root() -> None:
    """Which models go together on which GPU, in which configuration.

    From measurements on a real Triton server to a proven placement, one model repository per GPU, and a run
    that shows predicted beside measured.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    signal.signal(signal.SIGTERM, _terminate)
    if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # nohup's wish to outlive the terminal stands
        signal.signal(signal.SIGHUP, _terminate)
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; errors are printed to standard error."""
    try:
        root.main(args=None if arguments is None else list(arguments), prog_name="planner", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except PlannerError as error:
        _print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as error:
        # click wraps a KeyboardInterrupt into an Abort without its text
        text = str(error) or str(error.__cause__ or "") or "what was finished is kept"
        click.echo(f"interrupted: {text}", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe went away; without this Python complains once more while it shuts down.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _print_error(_os_error(error))
        return _os_error(error).exit_code
    except Exception:  # noqa: BLE001  the last catcher: whatever is left is our own mistake
        traceback.print_exc()
        click.echo("error: this is a bug in planner; the trace above says where", err=True)
        return INTERNAL_ERROR
    return 0


def _os_error(error: OSError) -> PlannerError:
    from planner.errors import Incomplete, InputError

    what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    if error.errno in (28, 122):  # ENOSPC, EDQUOT
        return Incomplete(what, hint="free some space and run the command again; what was finished is kept")
    return InputError(what)


def _print_error(error: PlannerError) -> None:
    click.echo(f"error: {error.message}", err=True)
    for reason in getattr(error, "reasons", ()):
        click.echo(f"  - {reason}", err=True)
    if error.log_tail:
        click.echo("  last lines of the server's log:", err=True)
        for line in error.log_tail.splitlines()[-LOG_LINES_SHOWN:]:
            click.echo(f"  | {line}", err=True)
    if error.hint:
        click.echo(f"  try: {error.hint}", err=True)


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt("terminated; what was finished is kept")


if __name__ == "__main__":
    main()
