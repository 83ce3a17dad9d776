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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from steepest.data import Corpus
from steepest.planning.climb import SHAPE, Finished, climb, trunk_of
from steepest.planning.plan_file import data_fingerprint
from steepest.planning.rungs import Rung
from steepest.runs import append_lines, read_lines, write_atomically
from steepest.tokenizer import Tokenizer
from steepest.train.kinds import Kind
from steepest.train.run import Listener, RunConfig

VERSION = 1  # of what a rung is; older rungs are not found
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
            "version": VERSION, "data": data_fingerprint(corpus),
            "tokenizer": Tokenizer.load(corpus.tokenizer).fingerprint, "machine": machine, "dtype": given.train.dtype,
            "objective": given.objective.model_dump(mode="json"),
            "model": {key: value for key, value in fixed.items() if key not in SHAPE or key == "dropout"},
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
        """All rungs that are finished, the newest of equal ones."""
        found = {}
        for record in read_lines(self.file):
            rung = Finished.of(record)
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
        cost: Callable[[Rung], float] = lambda rung: 0.0,
        whole: int = 0,
        top: Rung | None = None,
        listen: Listener = lambda name, fields: None,
    ) -> Iterator[Finished]:
        """Run those of some rungs that are not finished, the cheapest trunk first, while the seconds last.

        Args:
            cost: expected seconds of a rung; what the first rungs really take corrects it for the others.
            whole, top: held-out tokens that one rung is evaluated on besides.
        """
        have = {one.rung for one in self.finished()}
        trunks: dict[Any, list[Rung]] = {}
        for rung in rungs:
            if rung not in have:
                trunks.setdefault(trunk_of(rung, self.given, self.fixed), []).append(rung)
        began, expected, taken = time.monotonic(), 0.0, 0.0
        for number, branches in enumerate(sorted(trunks.values(), key=lambda some: sum(map(cost, some)))):
            price, left = sum(map(cost, branches)), seconds - (time.monotonic() - began)
            slowness = taken / expected if expected else 1.0
            if number and price * slowness > left:
                continue
            for one in climb(
                branches, self.given, self.fixed, self.corpus, kind, whole=whole, top=top,
                interrupted=lambda: time.monotonic() - began > OVERRUN * seconds,
            ):  # fmt: skip
                self.add(one)
                taken += one.seconds
                expected += cost(one.rung)
                listen("rung", {"finished": one, "left": seconds - (time.monotonic() - began)})
                yield one
