"""The promise: a ladder within a share of the time, the law fitted to it, and what other budgets would reach.

    seconds of the ladder    LADDER_SHARE of the time, less what measuring took beyond its own share
    learning rate            a few multiples of the rule's on the smallest rung, if the ladder can afford them
    rungs                    designed for the rule's size (``rungs``), run (``ladder``), judged and fitted (``predict``)

Where no ladder can be had, the reason is said in one line, and the rule decides.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from steepest.data import Corpus
from steepest.data.examples import Examples
from steepest.model.size import n_matrix_parameters
from steepest.planning.climb import PART, Finished, rung_config
from steepest.planning.ladder import Ladder
from steepest.planning.ledger import Ledger
from steepest.planning.measure import Pace, machine
from steepest.planning.menu import Menu
from steepest.planning.predict import Outlook, look_out, told_as_record
from steepest.planning.rungs import LEAST_STEPS, SMALL, Rung, design, rounded_epochs
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig, resolve_device
from steepest.train.session import affordable_evaluation

LADDER_SHARE = 0.09  # of the whole time
PLANNING_SHARE = 0.115  # of the whole time, that measuring and ladder may take together
RATE_SHARE = 0.25  # of the ladder's seconds, that the learning-rate check may take
RATES = (0.5, 2.0)  # times the rule's rate, besides the rule's own
EVALUATION_COST = 0.35  # of a token evaluated, over one trained on
START_SECONDS = 0.1  # of a rung: building it


@dataclass(frozen=True)
class Promise:
    """What was learnt before training.

    Attributes:
        menu: sizes and tokens, with the pace that the rungs really had.
        outlook: what the ladder says; ``None`` without one.
        multiplier: of the rule's learning rate.
        reason: why nothing is predicted; empty if something is.
        record: for plan.json.
    """

    menu: Menu
    outlook: Outlook | None
    multiplier: float
    reason: str
    record: dict[str, Any]


def why_no_ladder(given: RunConfig, examples: Examples) -> str:
    """Why small runs cannot tell of this one, in words; empty if they can."""
    kind: str = given.objective.kind
    if kind != "next-token" or not isinstance(examples, Corpus):
        return f"the loss of {kind} is not predicted: ladders are for next-token"
    if not examples.held_out_tokens:
        return "nothing is held out, so no loss can be predicted: set data.validation above 0"
    return ""
