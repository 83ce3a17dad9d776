"""Causal graphs: read from plain text, turned into an attention mask, asked what data can settle.

causal      nodes, order, parents, contexts; the mask over positions and when a mask is exact
parse       text (plain lines, DOT, dagitty) -> graph
query       "recovered | do(treatment=A), stone=large" -> who is asked, what is set, what is seen
identify    Tian's test: is the answer settled by data and graph
inference   exact answers: sums over products of tables, cheapest column first
"""

from steepest.graph.causal import Graph, closed, question_mask
from steepest.graph.identify import Settled, effects, settle
from steepest.graph.inference import Factor, cost_of, sum_out
from steepest.graph.parse import read_graph, read_graph_file
from steepest.graph.query import Query, read_query

__all__ = [
    "Factor",
    "Graph",
    "Query",
    "Settled",
    "closed",
    "cost_of",
    "effects",
    "question_mask",
    "read_graph",
    "read_graph_file",
    "read_query",
    "settle",
    "sum_out",
]
