"""Causal graphs from text, their order and contexts, and what is refused in a sentence."""

import networkx as nx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.errors import DataError, QueryError
from steepest.graph import Graph, closed, question_mask, read_graph, read_query

DIAMOND = Graph([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d")])


@pytest.mark.parametrize(
    "text",
    [
        "a -> b\na -> c\nb -> d\nc -> d",
        "a -> b -> d  # a chain\n\n# nothing\nd <- c <- a",
        'digraph "my graph" {\n  rankdir=LR;\n  node [shape=box];\n  a -> {b c};\n  {b, c} -> d [label="x -> y"];\n}',
        "strict digraph { a -> b; a -> c; b -> d; c -> d }",
        'digraph\n{ // one\n "a" -> "b" /* two\n lines */ -> d [color=red]; a -> c -> d; }',
        'dag { bb="0,0,1,1" a [exposure,pos="0.1,-0.2"] d [outcome] b c a -> b a -> c b -> d c -> d }',
        "dag {\na\nb\na -> { b c }\nd <- b\nd <- c\n}\n",
        "a->b\na->c\nb->d\nd<-c",
    ],
)
def test_the_same_graph_in_many_spellings(text: str) -> None:
    graph = read_graph(text)
    assert set(graph.directed.edges) == set(DIAMOND.directed.edges)
    assert not graph.ties() and graph.order[0] == "a" and graph.order[-1] == "d"


@pytest.mark.parametrize("line", ["treatment = stone", "b => c"])
def test_no_line_of_a_plain_file_is_passed_over(line: str) -> None:
    with pytest.raises(DataError, match=":2: cannot read"):
        read_graph(f"a -> b\n{line}\nb -> c", "my.graph")
    assert read_graph("dag { u [latent] u [latent] u -> a u -> b a -> b }").ties() == [("a", "b")]


def test_hidden_causes_and_quoted_names() -> None:
    graph = read_graph('"birth weight" <-> diet\n"birth weight" -> height-at-10\nalone')
    assert graph.ties() == [("birth weight", "diet")]
    assert graph.parents("height-at-10") == ("birth weight",) and "alone" in graph.order
    assert read_graph("digraph { a -> b [dir=both]; b -> c [dir=back] }").ties() == [("a", "b")]
    assert read_graph("digraph { b -> c [dir=back] }").parents("b") == ("c",)
    # dagitty draws a hidden cause as a latent column: its children are tied
    latent = read_graph("dag { u [latent] u -> x u -> y x -> m m -> y }")
    assert latent.ties() == [("x", "y")] and set(latent.order) == {"x", "m", "y"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a -> b\n\nb => c", 'g:3: cannot read "b => c"'),
        ("a -> b\nb -- c", 'g:2: cannot read "b -- c"'),
        ("stone size -> treatment", 'g:1: cannot read "stone size -> treatment"; .* quotation marks'),
        ("a -> ", "g:1: cannot read"),
        ("-> a", "g:1: cannot read"),
        ("a -> {b c", "g:1: cannot read"),
        ('digraph {\n a -> b\n "c -> d\n}', "g:3: cannot read"),
        ("digraph { a -> b [dir=none] }", "g:1: cannot read"),
        ("# nothing\n", "g: nothing is drawn"),
        (
            "a -> b -> c -> a\nx -> a",
            "the graph has a cycle: a -> b -> c -> a; a cause cannot be its own effect",
        ),
        ("a -> b\nb -> b", '"b" is drawn as its own cause'),
        ("a <-> a", '"a" is tied to itself'),
        ("dag { u [latent] a -> u u -> b }", 'the latent "u" has causes itself'),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_graph(text, "g")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    n = draw(st.integers(1, 7))
    names = draw(st.permutations([f"v {i}" for i in range(n)]))
    pairs = [(names[i], names[j]) for j in range(n) for i in range(j)]
    directed = [pair for pair in pairs if draw(st.booleans())]
    hidden = [pair for pair in pairs if draw(st.integers(0, 3)) == 0]
    return Graph(directed, hidden, names=names)


@given(graphs())
def test_text_reads_back_as_the_same_graph(graph: Graph) -> None:
    again = read_graph(str(graph))
    assert again == graph and again.order == graph.order and again.contexts == graph.contexts
    assert nx.utils.graphs_equal(again.directed, graph.directed)


@given(graphs())
def test_without_ties_contexts_are_parents_and_with_them_they_come_before(graph: Graph) -> None:
    plain = Graph(graph.directed.edges, names=graph.order)
    for name in graph.order:
        assert plain.context(name) == plain.parents(name)
        assert set(graph.parents(name)) <= set(graph.context(name))
        assert all(graph.index[each] < graph.index[name] for each in graph.context(name))


@given(graphs())
def test_the_question_mask_is_closed(graph: Graph) -> None:
    assert closed(question_mask(graph.contexts))


def test_which_masks_are_exact_at_any_depth() -> None:
    assert closed(np.tri(9, dtype=bool))  # a text
    assert not closed(np.tri(9, dtype=bool) & ~np.tri(9, k=-3, dtype=bool))  # a sliding window
    assert not closed(np.tri(9, k=-1, dtype=bool))  # no position sees itself
    chain = np.eye(3, dtype=bool)
    chain[1, 0] = chain[2, 1] = (
        True  # parents of a -> b -> c on one token a column: c would read a by way of b
    )
    assert not closed(chain)
    assert closed(question_mask(Graph.complete(["a", "b", "c"]).contexts))


def test_the_alphabet_does_not_reorder_the_columns_of_a_complete_graph() -> None:
    assert Graph.complete(["z", "a", "m"]).order == ("z", "a", "m")


@pytest.mark.parametrize(
    ("text", "target", "do", "known"),
    [
        ("y", "y", {}, {}),
        ("y | x=1", "y", {}, {"x": "1"}),
        ("P(y|do(x = a b)", None, None, None),
        ('"the y"|do("the x"="a|b"),z=(1)', None, None, None),
        ('"the y"|do("the x"="a|b"),z="(1)"', "the y", {"the x": ("a|b",)}, {"z": "(1)"}),
        ("p( y | do(x=a|b, w=c) , z=-1.5 )", "y", {"x": ("a", "b"), "w": ("c",)}, {"z": "-1.5"}),
        ("y | do(x=1), do(w=2)", "y", {"x": ("1",), "w": ("2",)}, {}),
        ("y | do = 1", "y", {}, {"do": "1"}),
    ],
)
def test_questions_in_the_notation_of_textbooks(
    text: str, target: str | None, do: dict[str, tuple[str, ...]] | None, known: dict[str, str] | None
) -> None:
    if target is None:
        with pytest.raises(QueryError):
            read_query(text)
        return
    query = read_query(text)
    assert (query.target, query.do, query.given) == (target, do, known)


@pytest.mark.parametrize(
    ("text", "said", "caret"),
    [
        ("recovered || x=1", "expected a column", 11),
        ("recovered | do(x)", 'expected "="', 16),
        ("recovered | do(x=1", r'expected "\)"', 18),
        ("recovered | x", 'expected "="', 13),
        ("recovered x=1", r'expected "\|"', 10),
        ("| x=1", "the column that is asked for", 0),
        ('y | x="a', '" is not closed', 6),
        ("y | do(y=1)", '"y" is on both sides', 7),
        ("y | do(x=1), x=2", '"x" stands twice', 13),
        ("y | do(x=1|2, w=3|4)", "only one column can have several", 14),
        ("", "the column that is asked for", 0),
    ],
)
def test_a_question_that_does_not_parse_has_a_caret_under_the_place(text: str, said: str, caret: int) -> None:
    with pytest.raises(QueryError, match=said) as caught:
        read_query(text)
    *_, shown, mark = str(caught.value).split("\n")
    assert shown == "    " + text and mark.index("^") == 4 + caret
