"""The front door in Python: ten lines do what the command does.

import steepest
run = steepest.train("corpus.txt", time="10m")
print(run.metrics["bits_per_byte"])
print(run.generate("Once upon a time", max_tokens=200))
"""

from steepest.api.planning import Plan, plan, scores
from steepest.api.trained_run import RUNS, TrainedRun, load, load_run_config
from steepest.api.training import resume, rewind, train

__all__ = [
    "RUNS", "Plan", "TrainedRun", "load", "load_run_config", "plan", "resume", "rewind", "scores", "train",
]  # fmt: skip
