"""Are the verdicts right, what do probes cost, and how close are singular values?

    python benchmarks/health.py verdicts [--text FILE] [--seed N]     every planted sickness, every healthy run
    python benchmarks/health.py overhead                             probe time over training time
    python benchmarks/health.py singular                             Lanczos against the dense answer, in float64

Wanted: 12 of 12 kinds recognised, no alarm in 20 or more healthy runs, under 2% of the time, within 0.1%.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from pydoc_data.topics import topics
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import sickness
from steepest.autograd import extreme_singular_values, singular_values
from steepest.health import KINDS, HealthConfig
from steepest.health.jacobians import block_maps, chained
from steepest.model import TransformerConfig
from steepest.optim.config import default_lr
from steepest.train.health_trial import RandomTokens, random_objective
from steepest.train.health_watch import HealthWatch
from steepest.train.loop import run_loop
from steepest.train.run import RunConfig, compose

RESULTS = Path(__file__).parent / "results"
# Depth, width, context, tokens and number of the steps timed; and depth, tokens, width of the maps.
SHAPES = (
    (2, 128, 256, 2048, 24),
    (4, 192, 256, 2048, 16),
    (8, 256, 256, 4096, 7),
    (12, 64, 128, 2048, 12),
    (4, 128, 512, 1024, 16),
    (4, 128, 512, 512, 24),
)
MAPS = ((1, 12, 32), (6, 12, 32), (16, 8, 32), (4, 6, 64))


def verdicts(text: Path | None, seed: int, file: Path) -> None:
    """Each run is written as soon as it is done; those that the file already has are not run again."""
    rows = json.loads(file.read_text())["rows"] if file.is_file() else []
    done = {row["run"] for row in rows}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if text is None:
            text = folder / "text.txt"
            text.write_text("\n".join(topics.values())[:300_000])
        for case in [*sickness.SICK, *sickness.HEALTHY]:
            if case.name in done:
                continue
            said, _ = sickness.train(case, text, folder / "cache", seed=seed)
            kinds = [verdict.kind for verdict in said]
            at = next((verdict for verdict in said if verdict.kind == case.kind), None)
            right = at is not None if case.kind else not kinds
            rows.append({"run": case.name, "expected": case.kind, "said": kinds, "right": right,
                         "step": at and at.step, "figure": at and at.figure, "layer": at and at.layer})  # fmt: skip
            print(f"{'ok  ' if right else 'MISS'} {case.name:<20} {case.kind or 'healthy':<26} "
                  f"{'step ' + str(at.step) if at else '':<9} {', '.join(kinds)}", flush=True)  # fmt: skip
            file.write_text(json.dumps({"summary": summarise(rows, seed), "rows": rows}, indent=1) + "\n")
    print(summarise(rows, seed))


def summarise(rows: list[dict], seed: int) -> dict:
    sick = [row for row in rows if row["expected"]]
    healthy = [row for row in rows if not row["expected"]]
    found = {row["expected"] for row in sick} - {row["expected"] for row in sick if not row["right"]}
    return {
        "kinds_recognised": len(found), "kinds": len(KINDS),
        "planted_recognised": sum(row["right"] for row in sick), "planted": len(sick),
        "false_alarms": sum(not row["right"] for row in healthy), "healthy": len(healthy), "seed": seed,
    }  # fmt: skip


def overhead() -> dict:
    """A step, the hook after it with a probe and without, in turn: seconds of one thread's processor time."""
    torch.set_num_threads(1)
    rows = []
    for depth, width, context, batch_tokens, steps in SHAPES:
        model = TransformerConfig(vocab_size=1024, depth=depth, width=width, context=context)
        config = RunConfig(model=model).replace(
            batches={"batch_tokens": batch_tokens},
            optim={"lr": default_lr("muon", width=width, batch_tokens=batch_tokens)},
            train={"steps": steps, "micro_batch": max(1, 4096 // context), "device": "cpu"},
        )
        every = HealthConfig().steps_between(batch_tokens // context)
        state = compose(config, RandomTokens(1024), random_objective)
        watch = HealthWatch(config, log=lambda line: None, event=lambda *_, **__: None,
                            micro_batch=lambda config=config: config.train.micro_batch)  # fmt: skip
        plain, probing, idle = [], [], []
        mark = [time.process_time()]

        def hook(state, record, watch=watch, plain=plain, probing=probing, idle=idle, mark=mark) -> None:
            record["seconds"] = 0.0
            began = time.process_time()
            plain.append(began - mark[0])
            for due, times in ((False, idle), (True, probing)):
                watch.due = lambda step, due=due: due  # what a step costs that is probed, and one that is not
                started = time.process_time()
                watch._keep_weights(state) if due else None
                watch(state, record)
                times.append(time.process_time() - started)
            watch._sample = None
            mark[0] = time.process_time()

        run_loop(state, lr=config.optim.lr, clip=1.0, hooks=[(1, hook)], micro_batch=config.train.micro_batch)
        step, probe, other = (median(times[2:]) for times in (plain, probing, idle))
        share = (probe + (every - 1) * other) / every / step
        rows.append({"depth": depth, "width": width, "context": context, "batch_tokens": batch_tokens,
                     "step_ms": 1e3 * step, "probe_ms": 1e3 * probe, "other_ms": 1e3 * other, "every": every,
                     "overhead": share})  # fmt: skip
        print(f"{depth} x {width}, {batch_tokens} tokens: step {1e3 * step:.1f} ms, probe {1e3 * probe:.1f} ms, otherwise "
              f"{1e3 * other:.3f} ms: {share:.2%} at every {every}", flush=True)  # fmt: skip
    return {"rows": rows}


def singular() -> dict:
    rows = []
    for depth, tokens, width in MAPS:
        trunk = random_trunk(depth, width)
        maps, x = block_maps(trunk, torch.arange(tokens))
        for name, f, at in (("first block", maps[0], x), ("all blocks", chained(maps), x)):
            values = singular_values(f, at)
            began = time.process_time()
            found = extreme_singular_values(
                f,
                at,
                steps=x.numel(),
                smallest=True,
                tolerance=1e-5,
                generator=torch.Generator().manual_seed(0),
            )
            seconds = time.process_time() - began
            largest = abs(found.largest / values[0].item() - 1)
            smallest = abs(found.smallest / values[-1].item() - 1)
            rows.append({"depth": depth, "inputs": x.numel(), "map": name, "largest": values[0].item(),
                         "smallest": values[-1].item(), "largest_error": largest, "smallest_error": smallest,
                         "steps": found.steps, "cpu_seconds": seconds})  # fmt: skip
            print(f"depth {depth:>2} {name:<12} {x.numel()} inputs: largest {values[0]:.4g} off by {largest:.1e}, smallest "
                  f"{values[-1]:.4g} off by {smallest:.1e}, {found.steps} steps", flush=True)  # fmt: skip
    return {"rows": rows}


def random_trunk(depth: int, width: int) -> torch.nn.Module:
    """A trunk in float64 whose weights are all away from zero."""
    from steepest.model import Transformer

    config = TransformerConfig(vocab_size=64, depth=depth, width=width, context=32)
    trunk = Transformer(config, torch.Generator().manual_seed(0)).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trunk.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return trunk


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["verdicts", "overhead", "singular"])
    parser.add_argument("--text", type=Path, help="text to train on; Python's own documentation if left out")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    if options.what == "verdicts":
        verdicts(options.text, options.seed, RESULTS / f"health_verdicts_seed{options.seed}.json")
    else:
        result = overhead() if options.what == "overhead" else singular()
        (RESULTS / f"health_{options.what}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
