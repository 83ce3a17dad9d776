r"""A causal graph from text: one relation a line, or the edge lists of DOT and dagitty as they are.

smoking -> cancer              a cause and its effect; also cancer <- smoking, and chains a -> b -> c
diet <-> cancer                a hidden common cause
age                            a column that causes nothing and has no cause
"birth weight" -> cancer       names with spaces in quotation marks
# a comment

digraph { a -> {b c}; b -> c [label="strong"] }        DOT: attributes and settings are passed over, but
dag { a -> b  a <-> c  u [latent]  u -> {b c} }        ``dir=both`` is <-> and a latent's children are tied
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from steepest.errors import DataError
from steepest.graph.causal import Graph

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\f]+ | \#[^\n]* | //[^\n]* | /\*.*?\*/)
    | (?P<end>[;\n])
    | (?P<arrow><->|->|<-)
    | (?P<open>\{) | (?P<close>\}) | (?P<comma>,)
    | (?P<attributes>\[[^\]]*\])
    | "(?P<quoted>[^"\n]+)"
    | (?P<name>(?:(?!->|--|//)[^\s";{}\[\]<>,\#])+)
    """,
    re.VERBOSE | re.DOTALL,
)
_HEADER = re.compile(r'\s*(?:strict\s+)?(?:digraph|dag|pdag|mag)\b\s*(?:"[^"\n]*"|\w+)?\s*\{', re.IGNORECASE)
# In DOT and dagitty: node [shape=box], rankdir=LR, bb="0,0,1,1".
_SETTING = re.compile(r'(?:node|edge|graph)[ \t]*\[[^\]]*\]|\w+[ \t]*=[ \t]*(?:"[^"\n]*"|[\w.]+)')


@dataclass
class _Token:
    kind: str
    text: str
    line: int


@dataclass
class _Edges:
    names: dict[str, None] = field(default_factory=dict)
    directed: list[tuple[str, str]] = field(default_factory=list)
    hidden: list[tuple[str, str]] = field(default_factory=list)
    latent: list[str] = field(default_factory=list)

    def add(self, causes: list[str], arrow: str, effects: list[str]) -> None:
        for a in causes:
            for b in effects:
                if arrow == "<->":
                    self.hidden.append((a, b))
                else:
                    self.directed.append((a, b) if arrow == "->" else (b, a))


def read_graph(text: str, where: str = "graph") -> Graph:
    """Read a graph.

    Args:
        where: what the text is called in messages.

    Raises:
        DataError: an unreadable line, with its number; nothing drawn; a cycle; a column that causes itself.

    >>> graph = read_graph("x -> m -> y  # the front door\\nx <-> y")
    >>> graph.order, graph.context("y")
    (('x', 'm', 'y'), ('x', 'm'))
    >>> read_graph("a -> b\\nb => c", "my.graph")
    Traceback (most recent call last):
    ...
    steepest.errors.DataError: my.graph:2: cannot read "b => c"; write "cause -> effect", "a <-> b" for a hidden ...
    """
    lines = text.split("\n")
    body, offset = _without_header(text)
    edges = _Edges()
    foreign = body is not text
    for statement in _statements(body, where, lines, offset, settings=foreign):
        _read_statement(statement, edges, where, lines, loose=foreign)
    _tie_children_of_latent(edges, where)
    if not edges.names:
        raise DataError(f'{where}: nothing is drawn in it; write one "cause -> effect" a line')
    return Graph(edges.directed, edges.hidden, names=list(edges.names))


def read_graph_file(path: Path | str) -> Graph:
    """Read a graph from a file; see ``read_graph``."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(
            f"{path}: no such file; a graph is a text file of lines like: cause -> effect"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a graph: {error}") from None
    return read_graph(text, str(path))


def _tie_children_of_latent(edges: _Edges, where: str) -> None:
    """A column that dagitty calls latent stands in no table: its children are tied instead."""
    for name in edges.latent:
        if any(b == name for _, b in edges.directed) or any(name in pair for pair in edges.hidden):
            raise DataError(
                f'{where}: the latent "{name}" has causes itself; draw what it ties together as a <-> b'
            )
        children = [b for a, b in edges.directed if a == name]
        edges.hidden += [(a, b) for i, b in enumerate(children) for a in children[:i]]
        edges.directed = [pair for pair in edges.directed if pair[0] != name]
        edges.names.pop(name, None)  # it may be said to be latent twice


def _without_header(text: str) -> tuple[str, int]:
    """The body of ``digraph name { ... }``, and how many lines come before it."""
    blank = re.sub(r"\A(?:\s*(?:#[^\n]*|//[^\n]*)\n)*", lambda m: "\n" * m[0].count("\n"), text)
    match = _HEADER.match(blank)
    if match is None:
        return text, 0
    end = blank.rstrip().rfind("}")
    return blank[match.end() : end if end > match.end() else len(blank)], blank[: match.end()].count("\n")


def _statements(
    body: str, where: str, lines: list[str], offset: int, *, settings: bool
) -> list[list[_Token]]:
    """Tokens of every statement; a line break ends one, but not between braces. ``settings`` are passed over."""
    found: list[list[_Token]] = [[]]
    at, line, depth = 0, offset + 1, 0
    while at < len(body):
        match = _TOKEN.match(body, at)
        if match is None:
            raise _unreadable(where, lines, line)
        kind = match.lastgroup or ""
        token = _Token("name" if kind == "quoted" else kind, match[kind], line)
        line, at = line + match[0].count("\n"), match.end()
        if kind in ("open", "close"):
            depth += 1 if kind == "open" else -1
        if kind == "end" and not depth:
            found.append([])
        elif settings and kind == "name" and (setting := _SETTING.match(body, match.start())):
            at = setting.end()
        elif kind not in ("space", "end"):
            found[-1].append(token)
    return [statement for statement in found if statement]


def _read_statement(
    tokens: list[_Token], edges: _Edges, where: str, lines: list[str], *, loose: bool
) -> None:
    """``group (arrow group)* attributes?``, one or several of them; a lone name declares a column.

    ``loose``: lone names may stand side by side, as dagitty has it.
    """
    at = 0
    while at < len(tokens):
        start = at
        groups, arrows = [], []
        while True:
            group, at = _read_group(tokens, at, where, lines)
            groups.append(group)
            if at == len(tokens) or tokens[at].kind != "arrow":
                break
            arrows.append(tokens[at].text)
            at += 1
        attributes = tokens[at].text if at < len(tokens) and tokens[at].kind == "attributes" else ""
        at += bool(attributes)
        if at < len(tokens) and not arrows and not attributes and not loose:
            raise _unreadable(where, lines, tokens[start].line)  # two names side by side
        direction = re.search(r'\bdir\s*=\s*"?(\w+)', attributes)
        for name in (name for group in groups for name in group):
            edges.names.setdefault(name)
        if re.search(r"\b(latent|unobserved)\b", attributes):
            edges.latent += groups[0]
        for i, arrow in enumerate(arrows):
            if direction and direction[1] != "forward":
                if direction[1] not in ("both", "back"):
                    raise _unreadable(where, lines, tokens[start].line)
                arrow = "<->" if direction[1] == "both" else "<-"
            edges.add(groups[i], arrow, groups[i + 1])


def _read_group(tokens: list[_Token], at: int, where: str, lines: list[str]) -> tuple[list[str], int]:
    """One name, or ``{a b c}``."""
    last = tokens[min(at, len(tokens) - 1)]
    if at < len(tokens) and tokens[at].kind == "name":
        return [tokens[at].text], at + 1
    if at < len(tokens) and tokens[at].kind == "open":
        names, at = [], at + 1
        while at < len(tokens) and tokens[at].kind in ("name", "comma"):
            names += [tokens[at].text] if tokens[at].kind == "name" else []
            at += 1
        if names and at < len(tokens) and tokens[at].kind == "close":
            return names, at + 1
    raise _unreadable(where, lines, last.line)


def _unreadable(where: str, lines: list[str], line: int) -> DataError:
    text = lines[line - 1].strip() if line <= len(lines) else ""
    return DataError(
        f'{where}:{line}: cannot read "{text}"; write "cause -> effect", "a <-> b" for a hidden common cause, or a '
        "lone name; names with spaces go in quotation marks"
    )
