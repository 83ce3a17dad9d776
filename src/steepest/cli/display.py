"""What a person sees while a run goes on: a few plain lines, a live line in a terminal, the result.

In a terminal a progress bar shows loss, bits per byte, learning rate, tokens per second and time left.
Into a file or pipe the same figures are written as plain lines, about twenty in a run.
"""

import math
import time
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from steepest.units import duration, in_bytes, in_count

__all__ = ["Display", "duration", "in_bytes", "in_count"]

PLAIN_LINES = 20


class Display:
    """Listens to a run's events and prints them."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False, soft_wrap=True)
        self.live: Progress | None = None
        self.task: Any = None
        self._shown = -1.0
        self._speed: tuple[float, int] | None = None
        self._rate = 0.0
        self._held_out = math.nan
        self._metric = "bits_per_byte"
        self._plain_due = 0.0
        self._bytes_per_token = math.nan  # where there is no text
        self._loss = math.nan

    def __call__(self, name: str, fields: dict[str, Any]) -> None:
        """Show one event."""
        handler = getattr(self, f"_on_{name}", None)
        if handler is not None:
            handler(**fields)

    def line(self, label: str, text: str) -> None:
        """Print a labelled line."""
        self.console.print(f"[bold]{label:<10}[/bold]{escape(text)}")

    def close(self) -> None:
        """End the live line."""
        if self.live is not None:
            self.live.stop()
            self.live = None

    # -- before training ------------------------------------------------------------------------------

    def _on_progress(self, stage: str, done: int, total: int) -> None:
        if self.console.is_terminal:
            if self.live is None or self.live.tasks[0].description != stage:
                self.close()
                self.live = Progress(TextColumn("[bold]{task.description:<10}"), BarColumn(), _Bytes(),
                                     console=self.console, transient=True)  # fmt: skip
                self.task = self.live.add_task(stage, total=total or None)
                self.live.start()
            self.live.update(self.task, completed=done, total=total or None)

    def _on_data(self, corpus: Any, tokenizer: Any) -> None:
        self.close()
        train, held = corpus.train, corpus.validation
        tokens, size = len(train.tokens) + len(held.tokens), train.n_bytes + held.n_bytes
        self._bytes_per_token = size / max(tokens, 1)
        self.line("data", f"{in_bytes(size)}, {in_count(tokens)} tokens ({tokenizer.kind}, vocabulary "
                  f"{tokenizer.vocab_size:,}, {self._bytes_per_token:.2f} bytes per token)")  # fmt: skip
        summary = corpus.summary
        how = {"hash": "whole documents held out by a hash of their content", "none": "nothing held out",
               "position": "the end of each document held out"}[summary.split]  # fmt: skip
        dropped = f", {summary.duplicates:,} exact duplicate{'s' * (summary.duplicates != 1)} dropped"
        passed = "".join(
            f", {count:,} files passed over ({why})" for why, count in summary.passed_over.items()
        )
        self.line("", f"{summary.documents:,} document{'s' * (summary.documents != 1)}{dropped}{passed}; "
                  f"{how}: {in_count(len(held.tokens))} tokens{'; found encoded' if corpus.reused else ''}")  # fmt: skip

    def _on_pairs(self, split: Any, held_out: int, tokenizer: Any, notes: list[str]) -> None:
        self.close()
        train, form = split.train, split.train.form
        what = {
            "pairs": "pairs",
            "classes": f"texts of {len(set(train.classes)):,} classes",
            "scores": "scored pairs",
        }
        of_columns = "" if train.columns[0] == "1" else f" ({', '.join(train.columns)})"
        how = f", split by {split.how}" if split.share else ""
        self.line(
            "data",
            f"{len(train):,} {what[form]}{of_columns} to train on, {held_out:,} to choose by{how}; {tokenizer.kind}, "
            f"vocabulary {tokenizer.vocab_size:,}",
        )
        for note in notes:
            self.line("", note)

    def _on_labelled(self, split: Any, tokenizer: Any, test: Any = None) -> None:
        self.close()
        rows = f"{len(split.train):,} texts to train on, {len(split.development):,} to choose by"
        rows += "" if test is None else f", {len(test):,} to be judged on"
        self.line(
            "data",
            f"{rows}; {len(split.names)} classes; {tokenizer.kind}, vocabulary {tokenizer.vocab_size:,}",
        )
        for note in split.notes:
            self.line("", note)

    def _on_baselines(self, judged: dict[str, Any], metric: str) -> None:
        for name, one in judged.items():
            self.line(
                "baseline", f"{one[metric]:.4f} {metric.replace('_', ' ')}: {name}, {one['seconds']:.1f} s"
            )

    def _on_table(self, kind: Any) -> None:
        from steepest.cli.ask import table_lines

        for label, text in table_lines(kind.graph, kind.table):
            self.line(label, text)
        for note in kind.notes:
            self.line("note", note)

    def _on_cross_fitting(self, fits: int, steps: int, done: int) -> None:
        if not done:
            parts = "a fifth of the rows" if fits == 1 else f"each of {fits} parts of the rows"
            self.line("held out", f"{parts}, to weigh counts and network; {steps:,} steps a fit")

    def _on_cross_fitted(self, held_out: dict[str, float], carried: dict[str, list[str]]) -> None:
        from steepest.cli.ask import floor_lines

        for text in floor_lines(held_out, carried):
            self.line("", text)

    def _on_machine(self, threads: int, flops: float, device: str, dtype: str) -> None:
        self.line("machine", f"{device}, {threads} thread{'s' * (threads != 1)}, {flops / 1e9:,.0f} GFLOP/s of float32 "
                  f"measured; training in {dtype}")  # fmt: skip

    def _on_run(self, folder: Any, config: Any, plan: dict[str, Any], resumed_at: int | None = None) -> None:
        self._on_plan(config, plan)
        if resumed_at is not None:
            self.line("resumed", f"at step {resumed_at:,}")
        self.line("run", str(folder.path))
        self.task = None
        self._shown = time.monotonic()

    def _on_plan(self, config: Any, plan: dict[str, Any]) -> None:
        model, train = config.model, config.train
        self._metric = config.objective.metric
        self.line("model", f"{model.depth} layers x {model.width} wide, context {model.context}, "
                  f"{in_count(plan['parameters'])} parameters")  # fmt: skip
        budget = f"{duration(train.time)} in all" if train.time else f"{plan['steps']:,} steps"
        self.line("plan", f"{budget}: about {in_count(plan['tokens'])} tokens ({plan['epochs']:.1f} epochs), batch "
                  f"{config.batches.batch_tokens:,} tokens, {config.optim.optimizer} at {config.optim.lr:.2g}")  # fmt: skip
        self.show_memory(plan.get("memory"))
        self._show_promise(plan)

    def show_memory(self, memory: dict[str, Any] | None) -> None:
        """The split of the batch, and the few that came next, with reasons."""
        if not memory:
            return
        if "predicted" not in memory:
            self.line("memory", f"{in_bytes(memory['timed'])} in the steps that were timed, of {in_bytes(memory['limit'])}: "
                      "far from its limit, so no prediction")  # fmt: skip
            return
        self.line(
            "memory",
            f"{in_bytes(memory['predicted'])} predicted of {in_bytes(memory['limit'])}: {_split(memory)}",
        )
        if memory["asked"]:
            for one in memory["considered"]:
                self.line("", f"{in_bytes(one['predicted']):>9}  {_split(one)}: {one['reason']}")

    def _on_ladder(self, rungs: Any, seconds: float, reused: int) -> None:
        found = f", {reused} of them found finished" if reused else ""
        self.line("ladder", f"{len(rungs)} small runs planned{found}, {duration(seconds)} at most")

    def _on_rung(self, finished: Any, left: float) -> None:
        rung = finished.rung
        rate = "" if rung.multiplier == 1 else f", rate x {rung.multiplier:.3g}"
        again = "" if rung.seed == 0 else f", seed {rung.seed}"
        self.line("", f"{rung.depth} x {rung.width}, {in_count(rung.n)} parameters, {in_count(finished.tokens)} tokens"
                  f"{rate}{again}: {finished.part['bits_per_byte']:.3f} bits/byte in {finished.seconds:.1f}s")  # fmt: skip

    def _show_promise(self, plan: dict[str, Any]) -> None:
        if ladder := plan.get("ladder"):
            points = ladder["points"]
            sizes = len({point["n"] for point in points if point["passed"]})
            passed = sum(point["passed"] for point in points)
            share = f" ({ladder['seconds'] / plan['time']:.0%} of the budget)" if plan.get("time") else ""
            self.line(
                "ladder",
                f"{passed} of {len(points)} points count, {sizes} sizes, {duration(ladder['seconds'])}{share}",
            )
        if reason := plan.get("unpredictable"):
            from steepest.planning import LEAST_TIME

            text = plan.get("config", {}).get("objective", {}).get("kind", "next-token") == "next-token"
            later = text and (plan.get("time") or 0) >= LEAST_TIME
            follows = "; a forecast follows during the run" if later else ""
            self.line("predicted", f"nothing: {reason}{follows}")
        if told := plan.get("prediction"):
            self.line("predicted", f"{told['value']:.3f} bits per byte (80% interval {told['low']:.3f} to {told['high']:.3f}, "
                      f"95% {told['low95']:.3f} to {told['high95']:.3f}), {told['extrapolation']:.0f} times the largest "
                      "small run's compute")  # fmt: skip
            self.line(
                "with", " · ".join(f"{name} {other['value']:.3f}" for name, other in plan["with"].items())
            )

    # -- during training ------------------------------------------------------------------------------

    def _on_step(self, record: dict[str, Any], share: float, left: float) -> None:
        self._loss = record["loss"] if math.isnan(self._loss) else 0.95 * self._loss + 0.05 * record["loss"]
        now = time.monotonic()
        if self._speed is None:
            self._speed = (now, record["tokens"])
        if self.console.is_terminal:
            if now - self._shown < 0.2 and self.task is not None:
                return
        elif share < self._plain_due:
            return
        began, tokens = self._speed
        if now - began > 2.0 or not self._rate:
            self._rate = (record["tokens"] - tokens) / max(now - began, 1e-9)
            self._speed = (now, record["tokens"])
        self._shown = now
        speed = f"{in_count(self._rate)} tokens/s  " if self._rate else ""
        held_out = "" if math.isnan(self._held_out) else f"held-out {self._held_out:.3f}  "
        bits = self._loss / math.log(2) / self._bytes_per_token
        text = (
            f"step {record['step']:,}  loss {self._loss:.3f}  "
            f"{'' if math.isnan(bits) else f'{bits:.3f} bits/byte  '}{held_out}"
            f"lr {record['lr']:.1e}  {speed}{duration(left)} left"
        )
        if self.console.is_terminal:
            self._show_live(text, share)
        else:
            self._plain_due = share + 1 / PLAIN_LINES
            self.line(f"{share:.0%}", text)

    def _show_live(self, text: str, share: float) -> None:
        if self.task is None:
            self.live = Progress(BarColumn(bar_width=20), TextColumn("{task.percentage:>3.0f}%  {task.description}"),
                                 console=self.console, transient=True, auto_refresh=False)  # fmt: skip
            self.task = self.live.add_task(text, total=1.0)
            self.live.start()
        assert self.live is not None
        self.live.update(self.task, completed=min(share, 1.0), description=escape(text))
        self.live.refresh()

    def _on_evaluation(self, record: dict[str, Any]) -> None:
        self._held_out = record["evaluation"].get(self._metric, math.nan)

    def _on_forecast(self, mark: float, value: float, low: float, high: float, **_: Any) -> None:
        self.line(
            "forecast", f"at {mark:.0%}: {value:.3f} bits per byte (80% interval {low:.3f} to {high:.3f})"
        )

    def _on_event(self, event: str, **fields: Any) -> None:
        if event in QUIET_EVENTS:
            return
        if event == "verdict":
            self.line("verdict", fields["sentence"])
            return
        if event == "memory measured":
            told = f", {in_bytes(fields['predicted'])} predicted" if fields["predicted"] else ""
            self.line("memory", f"{in_bytes(fields['measured'])} at the most so far{told}")
            return
        told = ", ".join(f"{key} {_short(value)}" for key, value in fields.items())
        self.line("event", f"{event}: {told}" if told else event)

    def _on_stopping(self, signal: int) -> None:
        self.line("stopping", "after this step, with a checkpoint; once more stops at once")

    def _on_rewound(self, folder: Any, to: int, asked: int) -> None:
        where = f"step {to:,}" + ("" if to == asked else f" (the newest checkpoint at or before {asked:,})")
        self.line("rewound", f"{folder.name} to {where}")

    def _on_concluding(self) -> None:
        self.close()


QUIET_EVENTS = {
    "finished", "interrupted", "resumed", "horizon fixed", "horizon moved", "warm-up fixed",
}  # fmt: skip


class _Bytes(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Megabytes done of all."""
        total = f" of {in_bytes(task.total)}" if task.total else ""
        return Text(f"{in_bytes(task.completed)}{total}")


def _split(split: dict[str, Any]) -> str:
    """A split of the batch in words, from plan.json."""
    recomputed = split["recompute_blocks"]
    early = ", updates within the backward pass" if split.get("step_in_backward") else ""
    return f"micro-batches of {split['micro_batch']}, {recomputed or 'no'} block{'s' * (recomputed > 1)} recomputed, " \
           f"{split['allocator']}{early}"  # fmt: skip


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
