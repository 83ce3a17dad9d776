"""Write docs/commands.md from the commands' own help; `tests/test_cli.py` fails when the page is stale."""

from pathlib import Path

import typer

from steepest.cli.main import register

PAGE = Path(__file__).parent.parent / "docs" / "commands.md"
ORDER = (
    "train",
    "resume",
    "rewind",
    "generate",
    "evaluate",
    "plan",
    "score",
    "predict",
    "embed",
    "search",
    "ask",
    "graph",
    "report",
    "export",
    "tokenize",
    "runs",
)
INTRODUCTION = """# Commands

Made from the commands' own help by `python dev/write_commands.py`. Every error is one line on standard error
and exit status 2; `steepest --debug COMMAND ...` shows the traceback. Ctrl-C and SIGTERM save a checkpoint and
print how to go on (exit status 130 and 143).
"""


def page() -> str:
    """The whole page as Markdown."""
    group = typer.main.get_command(register())
    names = [*ORDER, *sorted(set(group.commands) - set(ORDER))]  # type: ignore[attr-defined]
    sections = []
    for name in names:
        command = group.commands[name]  # type: ignore[attr-defined]
        parts = getattr(command, "commands", None)  # of a group, such as inspect
        below = (
            {name: command} if parts is None else {f"{name} {part}": parts[part] for part in sorted(parts)}
        )
        sections += [_section(title, one) for title, one in below.items()]
    return INTRODUCTION + "".join(sections)


def _section(name: str, command: typer.core.TyperCommand) -> str:
    text, _, example = (command.help or "").partition("Example:")
    lines = [f"\n## steepest {name}\n", f"{' '.join(text.split())}\n", f"    {example.strip()}\n"]
    lines += ["| argument or option | meaning |", "|---|---|"]
    for parameter in command.params:
        shown = (
            ", ".join([*parameter.opts, *parameter.secondary_opts])
            if parameter.param_type_name == "option"
            else (parameter.name or "").upper()
        )
        if "--help" in parameter.opts:
            continue
        default = parameter.default
        plain = (
            isinstance(default, str | int | float | Path) and not isinstance(default, bool) and default != ""
        )
        told = f" (default: {default})" if plain else ""
        lines.append(f"| `{shown}` | {(getattr(parameter, 'help', '') or '').replace('|', '/')}{told} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
