"""The ladder: rungs within a number of seconds, each kept as soon as it is finished.

    <cache>/ladders/<key>/about.json     what the key stands for
                         /rungs.jsonl    one line a finished rung

The key covers the data, the tokenizer, the machine and the recipe (everything of the config but size, length and
learning rate). So a ladder that was interrupted goes on where it stopped, and a plan for another budget finds the
rungs of the last one. Lines are appended whole; a broken last one is passed over. Deleting the folder is always safe.
"""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steepest.data import Corpus
from steepest.planning.climb import SHAPE, Finished, climb, trunk_of
from steepest.planning.crew import Crew
from steepest.planning.rungs import Rung
from steepest.runs import append_lines, read_lines, write_atomically
from steepest.tokenizer import Tokenizer
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig

VERSION = 2  # of what a rung is; older rungs are not found
Cost = Callable[[Sequence[Rung]], float]  # expected seconds of the branches of one trunk
OVERRUN = 1.25  # times its seconds, after which a ladder is cut short in the middle of a rung


class Ladder:
    """Finished rungs of one corpus, tokenizer, machine and recipe.

    Args:
        given: what the user set; threads, dtype and device resolved.
        fixed: what data and user fix of the trunk.
        machine: what it runs on (see ``measure.machine``).
        cache: folder that holds the ladders.
    """

    def __init__(
        self, given: RunConfig, fixed: dict[str, Any], corpus: Corpus, machine: dict[str, Any], cache: Path
    ) -> None:
        self.given, self.fixed, self.corpus = given, fixed, corpus
        about = {
            "version": VERSION, "data": corpus.content,
            "tokenizer": Tokenizer.load(corpus.tokenizer).fingerprint, "machine": machine, "dtype": given.train.dtype,
            "objective": given.objective.model_dump(mode="json"),
            "model": {key: value for key, value in fixed.items() if key not in SHAPE},
            "batches": given.batches.model_dump(mode="json"),
            "optim": given.optim.model_dump(mode="json"),
            "seed": given.train.seed,
        }  # fmt: skip
        text = json.dumps(about, sort_keys=True, indent=1)
        self.key = hashlib.sha256(text.encode()).hexdigest()
        self.path = cache / "ladders" / self.key[:16]
        self._about = text + "\n"

    @property
    def file(self) -> Path:
        """The finished rungs."""
        return self.path / "rungs.jsonl"

    def finished(self) -> list[Finished]:
        """All rungs that are finished, the newest of equal ones; lines that are not whole are passed over."""
        found = {}
        for record in read_lines(self.file):
            try:
                rung = Finished.of(record)
            except (KeyError, TypeError, ValueError):
                continue
            found[rung.rung] = rung
        return list(found.values())

    def add(self, finished: Finished) -> None:
        """Keep a rung."""
        if not self.file.exists():
            self.path.mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / "about.json", self._about)
        append_lines(self.file, finished.record())

    def climb(
        self,
        rungs: Sequence[Rung],
        kind: Kind,
        *,
        seconds: float = math.inf,
        cost: Cost = lambda branches: 0.0,
        workers: int = 1,
        whole: int = 0,
        top: Rung | None = None,
        listen: Listener = lambda name, fields: None,
    ) -> Iterator[Finished]:
        """Run those of some rungs that are not finished while the seconds last, the cheapest trunk first.

        Args:
            cost: expected seconds of the branches of one trunk; what the first trunks really take corrects it for the others.
            workers: trunks that are trained at once, the dearest first.
            whole, top: held-out tokens that one rung is evaluated on besides.
        """
        have = {one.rung for one in self.finished()}
        trunks = self.trunks(rung for rung in rungs if rung not in have)
        least = min(map(cost, trunks), default=0.0)  # one at least is run
        began, expected, taken = time.monotonic(), 0.0, 0.0

        def left() -> float:
            return seconds - (time.monotonic() - began)

        def train(branches: Sequence[Rung]) -> Iterator[Finished]:
            return climb(
                branches, self.given, self.fixed, self.corpus, kind, whole=whole, top=top,
                interrupted=lambda: left() < (1 - OVERRUN) * seconds,
            )  # fmt: skip

        def kept(one: Finished) -> Finished:
            nonlocal taken
            self.add(one)
            taken += one.seconds
            listen("rung", {"finished": one, "left": left()})
            return one

        with Crew(workers) as crew:
            for branches in sorted(trunks, key=cost, reverse=workers > 1):
                while crew.full:
                    yield from map(kept, crew.next_results())
                slowness = taken / expected if workers == 1 and expected else 1.0
                others = taken or crew.busy or cost(branches) > least
                if others and cost(branches) * slowness > left():
                    continue
                if workers > 1:
                    crew.start(partial(train, branches))
                    continue
                yield from map(kept, train(branches))
                expected += cost(branches)
            yield from map(kept, crew.results())

    def trunks(self, rungs: Iterable[Rung]) -> list[list[Rung]]:
        """Rungs by the trunk that they branch from."""
        trunks: dict[Any, list[Rung]] = {}
        for rung in rungs:
            trunks.setdefault(trunk_of(rung, self.given, self.fixed), []).append(rung)
        return list(trunks.values())
