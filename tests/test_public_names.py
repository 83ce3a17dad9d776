"""Every public name resolves, has a docstring, and appears in the docs; typing sees what runs."""

import ast
import inspect
import re
from pathlib import Path

import pytest

import steepest

ROOT = Path(__file__).parent.parent
DOCS = "\n".join(path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))])


@pytest.mark.parametrize("name", steepest.__all__)
def test_public_name_is_documented(name: str) -> None:
    thing = getattr(steepest, name)
    assert inspect.getdoc(thing), f"{name} has no docstring"
    assert re.search(rf"(`|steepest\.|, ){name}\b", DOCS), f"{name} is not in docs/"


def test_every_page_is_linked_and_every_link_has_its_page() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    linked = set(re.findall(r"\]\((?:docs/)?([\w-]+\.md)\)", DOCS))
    assert linked - {"CHANGELOG.md", "LOG.md"} == pages


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = steepest.trian


def test_type_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "src/steepest/__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING")
    seen = {
        (node.module, alias.name)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == {(room, name) for room, names in steepest._ROOMS.items() for name in names}


def test_train_is_the_function_whatever_is_imported_first() -> None:
    from steepest.train import train_step
    from steepest.train.run import RunConfig

    assert steepest.train is steepest.api.train
    assert steepest.train_step is train_step and steepest.RunConfig is RunConfig
