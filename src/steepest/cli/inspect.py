"""``steepest inspect``: the group of commands that look inside a run or a configuration."""

from pathlib import Path
from typing import Any

import typer

from steepest.cli.main import app

inspect = typer.Typer(no_args_is_help=True)
app.add_typer(inspect, name="inspect")


@inspect.callback()
def look_inside() -> None:
    """Look inside a run or a configuration.

    Example: steepest inspect memory run-001
    """


def config_of(name: str, changes: list[str], runs: Path) -> Any:
    """The config of a run or of a TOML file, with some settings changed."""
    from steepest.config import build, load_toml, override
    from steepest.runs import open_run
    from steepest.train.run import RunConfig

    path = Path(name)
    if path.suffix != ".toml" or not path.is_file():
        path = open_run(name, runs).config
    values = {key: value for key, value in load_toml(path).items() if key != "format"}
    return build(RunConfig, override(values, changes))
