"""What a bag of n-grams knows of labelled texts: cheap, strong on small data, and so the place to start from.

features   texts -> sparse TF-IDF matrices: of words, of characters, of positions
model      a linear classifier on some of them, cross-fitted, kept without pickle; baselines
"""

from steepest.lexical.effort import SHARE, Effort, choose_effort
from steepest.lexical.features import Bag, View, make_bag, suitable_views
from steepest.lexical.model import LexicalModel, cross_fit, fit_baselines, fit_lexical

__all__ = [
    "SHARE",
    "Effort",
    "choose_effort",
    "Bag",
    "LexicalModel",
    "View",
    "cross_fit",
    "fit_baselines",
    "fit_lexical",
    "make_bag",
    "suitable_views",
]
