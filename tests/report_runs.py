"""A run folder with everything in it that a report can show, made without training."""

import math
from pathlib import Path
from typing import Any

from steepest.runs import RunFolder

DEPTH, STEPS, BYTES_PER_TOKEN = 6, 200, 2.5
CONFIG = """format = 1

[data]
sources = ["/texts/corpus.txt"]

[model]
depth = 6
width = 96

[batches]
batch_tokens = 1024

[optim]
lr = 0.003
clip = 1.0

[train]
time = 60.0
seed = 0
"""


def in_bits(nats: float) -> float:
    return nats / math.log(2) / BYTES_PER_TOKEN


def law(parameters: float, tokens: float) -> float:
    return 1.0 + 20 / parameters**0.35 + 30 / tokens**0.3


def gradient_flow(step: int) -> dict[str, Any]:
    """Of the shape described in docs/run-folder.md; the first block's gradient is 4 times the last's."""
    stream = [1e-4 * 4 ** ((DEPTH - i) / DEPTH) for i in range(DEPTH + 1)]
    part = {key: [0.01] * DEPTH for key in ("gradient", "weight", "update", "activation")}
    return {
        "first_to_last": 4.0,
        "stream": {"gradient": stream, "activation": stream},
        "attention": part,
        "mlp": part,
    }


def write_run(path: Path, *, lr: float = 0.003, shift: float = 0.0, name: str = "full") -> RunFolder:
    """Write it; ``shift`` is added to every loss."""
    folder = RunFolder(path / name)
    folder.path.mkdir(parents=True)
    folder.config.write_text(CONFIG.replace("0.003", str(lr)))
    points = [
        {"n": n, "tokens": d, "bits_per_byte": law(n, d), "passed": d > 1e5}
        for n in (1e5, 3e5)
        for d in (1e5, 2e5, 4e5)
    ]
    folder.write_json(folder.plan, {
        "parameters": 700_000, "tokens": 204_800, "epochs": 2.0, "memory": {"limit": 2e9, "predicted": 400e6},
        "ladder": {"points": points}, "law": {"E": 1.0, "A": 20.0, "alpha": 0.35, "B": 30.0, "beta": 0.3},
        "prediction": {"metric": "bits_per_byte", "value": 1.5, "low": 1.4, "high": 1.6, "level": 0.8,
                       "matrix_parameters": 6e5, "tokens": 200_000},
        "with": {"2x time": {"metric": "bits_per_byte", "value": 1.42, "low": 1.3, "high": 1.5, "level": 0.8}},
    })  # fmt: skip
    for step in range(STEPS + 1):
        place = {"step": step, "tokens": 1024 * step, "seconds": 5 + 0.25 * step}
        loss = 2.5 + 3 * math.exp(-step / 40) + shift
        if step:
            norm, verdict = (50.0, "outlier") if step == 120 else (0.5, "ok")
            record = {
                **place,
                "loss": loss,
                "lr": lr * (1 - step / STEPS),
                "grad_norm": norm,
                "verdict": verdict,
            }
            folder.append_metrics({**record, **({"memory": 400_000_000 + step} if step % 4 == 0 else {})})
        if step % 20 == 0:
            held_out = {
                "loss": loss + 0.1,
                "bits_per_byte": in_bits(loss + 0.1),
                "accuracy": 0.2 + step / 1000,
            }
            folder.append_metrics({**place, "evaluation": held_out})
        if step % 25 == 1:
            folder.append_metrics({**place, "gradient_flow": gradient_flow(step)})
    folder.append_event("horizon fixed", step=30, remaining=170)
    folder.append_event("step skipped", step=120, reason="outlier", loss=2.6, grad_norm=50.0)
    folder.append_event("verdict", kind="over-fitting", step=150, layer=None, figure=0.3,
                        sentence="Held-out loss is 0.3 above training loss; use more text.")  # fmt: skip
    folder.append_event(
        "forecast", step=100, mark=0.5, metric="bits_per_byte", value=1.52, low=1.47, high=1.57
    )
    folder.append_event("finished", step=STEPS, best_step=STEPS)
    reached = in_bits(2.6 + shift)
    folder.write_json(folder.result, {
        "step": STEPS, "tokens": 1024 * STEPS, "seconds": 59.5, "best_step": STEPS, "target_metric": "bits_per_byte",
        "held_out": {"loss": 2.6 + shift, "bits_per_byte": reached, "accuracy": 0.4}, "held_out_tokens": 5000,
        "memory": {"limit": 2e9, "predicted": 400e6, "measured": 410e6}, "sample": "Once <b>upon</b> a time",
    })  # fmt: skip
    return folder
