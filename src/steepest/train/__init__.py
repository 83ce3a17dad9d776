"""Training: compose a config into parts, then step after step make the loss smaller, on time.

run       RunConfig -> parts            step      micro-batches -> gradient -> update
session   one command's work            spikes    steps that would do harm are skipped
loop      step after step               deadline  the schedule that ends on time
evaluate  held-out metrics              state     what a checkpoint remembers
kinds     what differs between objectives
"""

from steepest.train.evaluate import evaluate
from steepest.train.loop import run_loop
from steepest.train.run import RunConfig, TrainConfig, compose
from steepest.train.session import Result, Session
from steepest.train.state import TrainState
from steepest.train.step import train_step

__all__ = [
    "Result",
    "RunConfig",
    "Session",
    "TrainConfig",
    "TrainState",
    "compose",
    "evaluate",
    "run_loop",
    "train_step",
]
