"""The house: a room imports only rooms on lower floors, or its own; no cycles, no rooms without a name."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "steepest"
FLOORS = [
    ["errors"],
    [
        "losses",
        "optim",
        "autograd",
        "tokenizer",
        "scaling",
        "graph",
        "config",
        "units",
        "runs",
        "atomic_folder",
        "manifest",
        "state_dicts",
    ],
    ["memory", "data", "checkpoint", "lexical"],
    ["model", "retrieval"],
    ["objectives"],
    ["health"],
    ["train"],
    ["planning"],
    ["report", "export"],
    ["api"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """Dotted names below ``steepest`` that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "steepest":
            names = [alias.name for alias in node.names]
            if node.module == "steepest":
                found |= set(names)
            else:
                found.add(node.module.removeprefix("steepest."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("steepest.") for a in node.names if a.name.startswith("steepest.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    assert room in FLOOR, f"{room} is not on the floor plan"
    for module in imported_modules(path):
        other = module.split(".")[0]
        if other == room:
            continue
        base = other in ("config", "atomic_folder") and FLOOR[room] == 1  # what rooms of floor 1 may share
        assert FLOOR[other] < FLOOR[room] or base, f"{path.name} ({room}) imports {module}"


def test_no_import_cycles_between_files() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        name = ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        top_level = ast.Module(
            [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.ImportFrom)], []
        )
        graph[name] = {
            n.module.removeprefix("steepest.")
            for n in ast.walk(top_level)
            if isinstance(n, ast.ImportFrom) and n.module and n.module.startswith("steepest.")
        } & {".".join(p.relative_to(SOURCE).with_suffix("").parts) for p in FILES}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"cycle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for other in graph[name]:
            visit(other, (*trail, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_rooms_that_use_no_tensors_do_not_import_torch() -> None:
    for path in FILES:
        if room_of(path) in ("config", "errors", "runs", "scaling", "graph", "report", "tokenizer"):
            assert "torch" not in {
                alias.name.split(".")[0]
                for node in ast.walk(ast.parse(path.read_text()))
                if isinstance(node, ast.Import)
                for alias in node.names
            }, path


def test_files_are_named_for_concepts_and_can_be_read_aloud() -> None:
    for path in FILES:
        assert path.stem not in ("utils", "util", "common", "helpers", "misc", "tools"), path
        assert len(path.read_text().splitlines()) <= 400, f"{path} is two files"


def test_only_the_command_line_prints() -> None:
    for path in FILES:
        if room_of(path) == "cli":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print", f"{path}:{node.lineno}"
