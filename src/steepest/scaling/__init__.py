"""Scaling laws: from small runs to the loss of a large one, with an interval. numpy and scipy only.

laws                 the functional forms of Kaplan, Chinchilla and Muennighoff, and what papers found
points               finished runs, checked: parameters, tokens, loss
table                points from CSV, JSON lines or a folder of run folders
reading              what a fitted law says, and what would break it
bayes                the default fit: all laws the data allow, weighed; posterior: its arithmetic
draws                what laws that are draws have in common
early                the law of the first few million tokens, which knows no floor
variable_projection  the best-fitting law; huber: the same as the Chinchilla paper fits it
isoflop              the best size at each compute, and the frontier of least loss
gate                 whether a small run is far enough along to count
curve                a run's own loss curve, extrapolated under any schedule
prediction           a median with its intervals
recorded             a law as JSON, and its value
"""

from steepest.scaling.bayes import BayesLaw, fit_bayes
from steepest.scaling.curve import CurveLaw, fit_curve
from steepest.scaling.early import EarlyLaw, fit_early
from steepest.scaling.gate import Rung, Verdict, judge_ladder, local_slopes
from steepest.scaling.huber import fit_huber
from steepest.scaling.isoflop import compute_frontier, frontier_size, isoflop_minima
from steepest.scaling.laws import (
    BESIROGLU,
    HOFFMANN,
    KAPLAN,
    ChinchillaLaw,
    KaplanLaw,
    effective_tokens,
    muennighoff,
)
from steepest.scaling.points import Points, join
from steepest.scaling.posterior import Prior
from steepest.scaling.prediction import Prediction
from steepest.scaling.reading import Reading, read_law
from steepest.scaling.table import Table, points_from_rows, read_table
from steepest.scaling.variable_projection import fit_by_projection

__all__ = [
    "BESIROGLU", "HOFFMANN", "KAPLAN", "BayesLaw", "ChinchillaLaw", "CurveLaw", "EarlyLaw", "KaplanLaw", "Points", "Prediction",
    "Prior", "Reading", "Rung", "Table", "Verdict", "compute_frontier", "effective_tokens", "fit_bayes", "fit_by_projection", "fit_curve", "fit_early",
    "fit_huber", "frontier_size", "isoflop_minima", "join", "judge_ladder", "local_slopes", "muennighoff",
    "points_from_rows", "read_law", "read_table",
]  # fmt: skip
