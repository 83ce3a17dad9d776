"""``steepest``: the commands, and the one place where an error becomes one line and exit status 2.

Nothing heavy is imported before a command needs it, so that ``steepest --help`` answers at once.
"""

import os
import sys
import time
from importlib import import_module
from pathlib import Path

import typer

app = typer.Typer(
    name="steepest",
    help="Say what you can spend; get the best transformer it buys, trained from scratch on your own data.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


# In the order of the help; importing ``train`` first also brings what others share.
COMMANDS = (
    "train", "use", "plan", "predict", "embed", "ask", "report", "inspect", "inspect_health", "inspect_memory",
    "inspect_sensitivity", "law", "look",
)  # fmt: skip


def register() -> typer.Typer:
    """Import every file of commands, which puts them on the command line."""
    for name in COMMANDS:
        import_module(f"steepest.cli.{name}")
    return app


def main() -> None:
    """Run the command line; the entry point of the ``steepest`` script."""
    register()
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except Exception as error:
        from steepest.errors import SteepestError

        if debug or not isinstance(error, SteepestError):
            raise
        print(f"steepest: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def command_began() -> float:
    """When this process began, on the scale of ``time.monotonic()``: the budget pays for start-up too."""
    try:
        ticks = float(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
        age = float(Path("/proc/uptime").read_text().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        age = 0.0
    return time.monotonic() - max(0.0, age)
