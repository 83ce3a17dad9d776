"""One command's work on a run: clock, signals, evaluations, checkpoints, and the result at the end."""

import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from steepest.checkpoint import CheckpointWriter, load_checkpoint, prune
from steepest.data.examples import Examples
from steepest.errors import CheckpointError, StorageError
from steepest.memory.measure import resident
from steepest.runs import RunFolder
from steepest.train.deadline import DeadlineController
from steepest.train.evaluate import evaluate
from steepest.train.footprint import subject_of
from steepest.train.glimpses import Glimpses
from steepest.train.health_watch import HealthWatch
from steepest.train.kinds import Kind
from steepest.train.loop import Hook, Record, run_loop
from steepest.train.memory_watch import MemoryWatch
from steepest.train.metrics import MetricsLog
from steepest.train.proxy import proxy
from steepest.train.run import Listener, RunConfig, resolve_autocast, sequences_per_step
from steepest.train.signals import asked_to_stop
from steepest.train.speed import fastest_threads
from steepest.train.state import TrainState
from steepest.train.trackers import Trackers

EXIT_SECONDS = 0.5  # from the last line printed to the end of the process
EVALUATION_SHARE = 0.003  # of the time budget, for each evaluation during the run
FINISH_SHARE = 0.06  # of the time budget, at most, for the last evaluation and the sample


@dataclass(frozen=True)
class Result:
    """Where a session ended."""

    finished: bool
    step: int
    tokens: int
    seconds: float
    best_step: int
    metrics: dict[str, float]  # of the chosen weights, over the held-out text
    evaluated_tokens: int
    conclusion: dict[str, Any]  # what the kind of run says at the end, such as a sample
    signal: int | None = None


class Session:
    """Carries a composed run from where it stands to its end, or to an interruption.

    Args:
        kind: what is particular to the objective: how it ends, what is said of it.
        started: ``time.monotonic()`` when the command began; the budget counts from there.
        listen: called with an event's name and fields; the command line prints them.
        hooks: more of them, each called after its number of steps.
    """

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        state: TrainState,
        examples: Examples,
        kind: Kind,
        *,
        started: float,
        listen: Listener = lambda name, fields: None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.config, self.folder, self.state = config, folder, state
        self.examples, self.kind, self.listen, self.hooks = examples, kind, listen, hooks
        self.objective = state.objective
        self.device = next(self.objective.parameters()).device
        self.autocast = resolve_autocast(config, self.device)
        self.started, self.before = started, state.seconds  # ``before``: wall clock of earlier sessions
        self.trackers = Trackers(
            config.train.trackers, folder, config.model_dump(mode="json"), state.step, self._event
        )
        self.log = MetricsLog(folder, also=self.trackers.log)
        self.writer = CheckpointWriter(folder.checkpoints, after=self._prune)
        self.memory = MemoryWatch(
            config, folder, state.objective, subject_of(config, examples, kind.objective), self._event
        )
        self.health = HealthWatch(
            config, log=self.log.append, event=self._event, micro_batch=lambda: self.memory.micro_batch
        )
        self.glimpses = Glimpses(
            config,
            write=lambda tokens: kind.write(self.objective, config, tokens),
            progress=lambda state: self._progress(state)[0],
            log=self.log.append,
        )
        self.signal: int | None = None
        self._fresh, self._warned = True, set[str]()
        self._saved_at = time.monotonic()
        self._weighed_at = -math.inf
        self._saved_step = self._evaluated_step = -1
        self._stream_range = self._range_of_streams()

    def elapsed(self) -> float:
        """Wall clock of the run so far, all sessions together, in seconds."""
        return self.before + time.monotonic() - self.started

    def run(self) -> Result:
        """Train to the end of the budget, or until a signal; what was reached is returned and written."""
        with asked_to_stop(self._ask):
            try:
                self._begin()
                finished = run_loop(
                    self.state,
                    lr=self.config.optim.lr or 0.0,
                    clip=self.config.optim.clip,
                    micro_batch=lambda: self.memory.micro_batch,
                    autocast=self.autocast,
                    hooks=[
                        (1, self._observe),
                        (1, self.memory),
                        (1, self.health),
                        (1, self._evaluate_when_due),
                        (1, self._save_when_due),
                        (1, self.glimpses),
                        *self.hooks,
                    ],
                    interrupted=lambda: self.signal is not None,
                    enough=self._enough,
                    device=self.device,
                )
                if self._enough():
                    self._event("stopped early", step=self.state.step, evaluations=self.state.stale)
                if finished and self._evaluated_step != self.state.step:
                    self._evaluate()
                self.save()
                return self._finish() if finished else self._interrupted()
            finally:
                self.log.flush()
                self.trackers.close()
                self.writer.close()

    # -- beginning ------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Measure the held-out loss once (it times evaluation too), then set the deadline and the rhythm."""
        self.memory.begin()
        if self.state.step == 0:  # dropout draws from torch's own generator; a checkpoint restores it
            torch.manual_seed(self.config.train.seed)
        self.health.begin(self.state, self.folder.read_metrics(), self.folder.read_events())
        if self.config.train.threads and self.device.type == "cpu":
            torch.set_num_threads(self.config.train.threads)
        schedule, state = self.state.schedule, self.state
        self._began, self._began_at = time.monotonic(), state.step / max(schedule.total_steps or 1, 1)
        held_out = self.examples.held_out_tokens
        timed_run = (
            self.config.train.time is not None
        )  # whose steps are fixed on the way: a resumed one sees the same text
        expected = (None if timed_run else schedule.total_steps) or self._expected_steps()
        wanted = self.config.train.evaluate_tokens or max(
            4 * self.config.model.context, round(0.01 * expected * self._step_tokens())
        )
        self._evaluate_tokens = min(wanted, held_out)
        self._evaluate_every = max(1, math.ceil(expected / max(self.config.train.evaluations, 1)))
        if state.step == 0:
            self._evaluate()
        if self.config.train.compile:
            self._compile()
        whole = getattr(self.examples, "judged_whole", False)  # whatever part of it is asked for
        timed = held_out if whole else min(self._evaluate_tokens, 16 * self.config.model.context)
        began = time.monotonic()
        self._measure(timed, exact=True)
        per_token = (time.monotonic() - began) / max(timed, 1)
        self._final_tokens = held_out
        if isinstance(schedule, DeadlineController):
            budget = self.config.train.time or 0.0
            affordable = int(FINISH_SHARE * budget / 1.5 / max(per_token, 1e-9))
            if held_out > affordable:
                self._final_tokens = max(self._evaluate_tokens, affordable)
            reserve = 1.2 * per_token * (self._final_tokens + self._evaluate_tokens) + EXIT_SECONDS
            reserve += self.kind.seconds_to_conclude(self.config)
            reserve += self._seconds_to_save() + min(2.0, 0.01 * budget)  # checkpoint, then the sample
            schedule.set_seconds_left(budget - self.elapsed() - reserve)

    def _compile(self) -> None:
        """Let torch.compile do its work on a first batch, so that no step of the schedule pays for it."""
        self.objective.train()
        with torch.random.fork_rng():
            self._one_gradient()

    def _one_gradient(self) -> None:
        """The gradient of one micro-batch, forgotten again."""
        micro_batch = self.memory.micro_batch
        part = self.state.batches.at(self.state.step).split(micro_batch)[0].to(self.device)
        self.objective.accumulate_gradient(part, micro_batch=micro_batch, autocast=self.autocast)
        self.state.optimizers.zero_grad()

    def _expected_steps(self) -> int:
        """Steps a time budget is expected to buy, from the plan's measured speed."""
        return max(1, round((self.config.train.expected_tokens or 1_000_000) / self._step_tokens()))

    def _step_tokens(self) -> int:
        return sequences_per_step(self.config) * self.config.model.context

    def _seconds_to_save(self) -> float:
        values = sum(parameter.numel() for parameter in self.objective.parameters())
        return 0.2 + 3 * 4 * values / 200e6  # weights and two moments at 200 MB/s

    # -- hooks ----------------------------------------------------------------------------------------

    def _observe(self, state: TrainState, record: Record) -> None:
        """Log the step; turn skipped steps and the schedule's decisions into events."""
        if self._fresh:  # the optimiser's state exists only now
            self.writer.prepare(state.tensors())
            self._fresh = False
        state.seconds = record["seconds"] = round(self.elapsed(), 4)
        if record["verdict"] != "ok":
            applied = record["verdict"] == "outlier applied"
            self._event("outlier applied" if applied else "step skipped", step=state.step, reason=record["verdict"], loss=record["loss"],
                        grad_norm=record["grad_norm"])  # fmt: skip
        if (reach := self._range_of_streams()) != self._stream_range:
            self._event("grid coarsened", step=state.step, range=reach)
            self._stream_range = reach
        for event in state.schedule.take_events():
            kind = event.pop("event")
            self._event(kind, **event)
            if kind == "step time jumped":
                self._measure_threads()
        if time.monotonic() - self._weighed_at >= 1.0:
            record["memory"], self._weighed_at = resident(self.device), time.monotonic()
        if state.step % self.config.train.log_every == 0:
            self.log.append(record)
        share, left = self._progress(state)
        self.listen("step", {"record": record, "share": share, "left": left})

    def _range_of_streams(self) -> int | None:
        """How large reversible streams may grow on their grid."""
        grid = self.objective.trunk.grid
        return None if grid is None else 2**grid.range_bits

    def _progress(self, state: TrainState) -> tuple[float, float]:
        """Share of the run behind, and seconds left."""
        budget = self.config.train.time
        if budget is not None:
            return self.elapsed() / budget, budget - self.elapsed()
        share = state.step / max(state.schedule.total_steps or 1, 1)
        return share, (time.monotonic() - self._began) * (1 - share) / max(share - self._began_at, 1e-9)

    def _evaluate_when_due(self, state: TrainState, record: Record) -> None:
        every, total = self._evaluate_every, state.schedule.total_steps
        if total is not None:  # in a run by time: as soon as the rate falls, better known than before
            every = max(1, math.ceil(total / max(self.config.train.evaluations, 1)))
        if total is not None and total - state.step < every / 2:
            return  # the one at the end is near
        if state.step % every == 0 and self.config.train.evaluations:
            self._evaluate()

    def _save_when_due(self, state: TrainState, record: Record) -> None:
        every = self.config.train.checkpoint_every
        due = (state.step % every == 0) if every else (
            time.monotonic() - self._saved_at >= self.config.train.checkpoint_seconds
        )  # fmt: skip
        if due:
            self.save()

    def _measure_threads(self) -> None:
        """The machine became busy or free: choose the thread count again, on the batch at hand."""
        early = self.state.optimizers.in_backward  # all gradients at once, which are not held otherwise
        if self.device.type != "cpu" or self.config.train.time is None or early:
            return
        with torch.random.fork_rng():
            threads, seconds = fastest_threads(self._one_gradient)
        self._event("threads measured", step=self.state.step, threads=threads, seconds=seconds)

    # -- evaluation -----------------------------------------------------------------------------------

    def _measure(self, tokens: int, *, exact: bool = False) -> dict[str, float]:
        """Metrics on some held-out tokens; ``exact`` in float32, whatever the training's dtype."""
        if not tokens:
            return {}
        batches = self.examples.held_out_batches(
            self.config.batches, context=self.config.model.context, tokens=tokens
        )
        # Fewer at once than usual where a limit was asked for, so that a training step stays the peak.
        rows = None if self.config.train.memory is None else self.memory.micro_batch
        return evaluate(self.objective, batches, autocast=None if exact else self.autocast, rows=rows)

    def _evaluate(self) -> None:
        """Evaluate on the first held-out tokens; log; keep a checkpoint of the best so far."""
        state, metric = self.state, self.objective.metric
        self._evaluated_step = state.step
        if not self._evaluate_tokens:
            return
        metrics = self._measure(self._evaluate_tokens)
        where = {"step": state.step, "tokens": state.tokens, "seconds": round(self.elapsed(), 4)}
        record = {**where, "evaluation": metrics}
        self.log.append(record)
        self.health.see(record)
        self.listen("evaluation", {"record": record})
        for said in self.objective.warnings(metrics):
            if (kind := re.sub(r"[\d.]+", "", said)) not in self._warned:  # once, whatever the figures
                self._warned.add(kind)
                self._event("warning", step=state.step, said=said)
        if state.step and self._best_so_far(metrics):
            state.best, state.stale = {"step": state.step, metric: metrics[metric]}, 0
            state.best["tie"] = _tie(metrics)
            # A checkpoint of this very step may be there, and names another as the best.
            self.save(again=True)
        elif state.step:
            state.stale += 1

    def _best_so_far(self, metrics: dict[str, float]) -> bool:
        """Whether the metric is better than ever, or as good at a smaller loss."""
        new, old = metrics[self.objective.metric], self.state.best.get(self.objective.metric)
        return self.objective.better(new, old) or (
            new == old and _tie(metrics) < self.state.best.get("tie", math.inf)
        )

    def _enough(self) -> bool:
        """Whether the metric has not risen for so many evaluations that going on is a waste; not in the first third."""
        patience, total = self.config.train.patience, self.state.schedule.total_steps or math.inf
        return patience is not None and self.state.stale >= patience and self.state.step >= total / 3

    # -- checkpoints ----------------------------------------------------------------------------------

    def save(self, *, again: bool = False) -> None:
        """Checkpoint where the run stands, once a step unless asked again; only the copy blocks, the writing is beside training."""
        if self._saved_step == self.state.step and not again:
            return
        self.log.flush()
        self.state.seconds = self.elapsed()
        self.writer.save(self.state.step, self.state.tensors(), self.state.record())
        self._saved_step, self._saved_at = self.state.step, time.monotonic()

    def _prune(self, path: Path) -> None:
        best = self.state.best.get("step")
        prune(self.folder.checkpoints, self.config.train.keep, protect=() if best is None else (int(best),))

    # -- the end --------------------------------------------------------------------------------------

    def _interrupted(self) -> Result:
        self._event("interrupted", step=self.state.step, signal=self.signal)
        state = self.state
        return Result(False, state.step, state.tokens, state.seconds, state.step, {}, 0, {}, self.signal)

    def _finish(self) -> Result:
        """Choose the weights by the target metric, evaluate them over all that is held out, conclude."""
        state, metric = self.state, self.objective.metric
        self.writer.wait()
        best_step = int(state.best.get("step", state.step))
        if best_step != state.step:
            best_step = self._load_best(best_step)
        metrics = self._measure(self._final_tokens, exact=True)
        self.listen("concluding", {})
        conclusion = self.kind.conclude(self.objective, self.examples, self.config, self._out_of_time)
        conclusion |= {"proxy": proxy(self.folder.read_metrics(), best_step, self.objective)}
        metrics = conclusion.pop("held_out", metrics)  # a kind that holds out in its own way
        result = Result(True, state.step, state.tokens, self.elapsed(), best_step, metrics,
                        self._final_tokens, conclusion)  # fmt: skip
        self.folder.write_json(self.folder.result, {
            "step": state.step, "tokens": state.tokens, "seconds": round(result.seconds, 3),
            "best_step": best_step, "target_metric": metric, "held_out": metrics,
            "held_out_tokens": self._final_tokens, "memory": self.memory.record(),
            "verdicts": [verdict.record() for verdict in self.health.verdicts], **conclusion,
        })  # fmt: skip
        self._event("finished", step=state.step, best_step=best_step, **{metric: metrics.get(metric)})
        return result

    def _load_best(self, step: int) -> int:
        """Put the best evaluation's weights in; the last ones stay if that checkpoint cannot be read."""
        try:
            tensors, _ = load_checkpoint(self.folder.checkpoints / f"step-{step:06d}")
        except (CheckpointError, StorageError) as error:
            self._event("best checkpoint unreadable", step=step, reason=str(error))
            return self.state.step
        self.objective.load_state_dict(tensors["model"])
        return step

    def _out_of_time(self) -> bool:
        limit = self.config.train.time
        return limit is not None and self.elapsed() > limit - EXIT_SECONDS

    # -- events and signals ---------------------------------------------------------------------------

    def _event(self, kind: str, /, **fields: Any) -> None:
        self.folder.append_event(kind, **fields)
        self.listen("event", {"event": kind, **fields})

    def _ask(self, number: int) -> None:
        self.signal = number
        self.listen("stopping", {"signal": number})


def _tie(metrics: dict[str, float]) -> float:
    """What decides between evaluations with the same metric."""
    return metrics.get("log_loss", metrics.get("loss", math.inf))
