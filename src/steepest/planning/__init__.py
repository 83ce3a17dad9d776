"""Planning: measure this machine, climb a ladder of small runs, choose what a budget buys, promise a loss, keep score."""

from steepest.planning.choose import Circumstances, choose, limit_vocabulary
from steepest.planning.decide import settle_here
from steepest.planning.forecast import Forecaster, keep_score
from steepest.planning.ledger import Ledger
from steepest.planning.plan_file import check_plan, plan_record, read_plan
from steepest.planning.promise import LEAST_TIME

__all__ = [
    "LEAST_TIME", "Circumstances", "Forecaster", "Ledger", "check_plan", "choose", "keep_score", "limit_vocabulary",
    "plan_record", "read_plan", "settle_here",
]  # fmt: skip
