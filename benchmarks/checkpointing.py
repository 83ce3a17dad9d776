"""What a checkpoint costs a run of 30 million parameters with AdamW: seconds training stands still, and in all.

    python benchmarks/checkpointing.py [--folder DIR]

Prints a table and writes ``benchmarks/results/checkpointing.json``. "blocked" is the call to
``CheckpointWriter.save``: the copy of 352 MB. "first" is a save into fresh memory, "prepared" one after
``CheckpointWriter.prepare``, "later" the median of the ones after it. The peers' way, ``torch.save`` in the
foreground with an fsync, is timed beside it on the same disk. "training beside" is how fast training steps
go while a checkpoint is being written, against without.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from steepest.checkpoint import CheckpointWriter, load_checkpoint, split_optimizer_state, verify_checkpoint

RESULTS = Path(__file__).parent / "results" / "checkpointing.json"


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _block() -> torch.nn.Module:
    return torch.nn.ModuleDict(
        {
            "qkv": torch.nn.Linear(512, 3 * 512, bias=False),
            "out": torch.nn.Linear(512, 512, bias=False),
            "gate_up": torch.nn.Linear(512, 2 * 1365, bias=False),
            "down": torch.nn.Linear(1365, 512, bias=False),
            "norms": torch.nn.ParameterList([torch.ones(512), torch.ones(512)]),
        }
    )


def model_and_optimizer() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """Eight blocks of width 512 and two vocabularies of 4,096: 29.4 million parameters."""
    model = torch.nn.ModuleDict(
        {
            "embedding": torch.nn.Embedding(4096, 512),
            "blocks": torch.nn.ModuleList([_block() for _ in range(8)]),
            "head": torch.nn.Linear(512, 4096, bias=False),
        }
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return model, optimizer


def torch_save(folder: Path, state: dict[str, Any]) -> None:
    with (folder / "peer.pt").open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=None, help="where to write (a temporary folder)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=arguments.folder))
    model, optimizer = model_and_optimizer()
    x = torch.randn(1024, 512)
    weight = torch.randn(512, 2048)

    def state() -> tuple[dict[str, dict[str, torch.Tensor]], dict[str, Any]]:
        tensors, rest = split_optimizer_state(optimizer.state_dict())
        return {"model": dict(model.state_dict()), "optimizer": tensors}, {"optimizer": rest}

    def save(writer: CheckpointWriter, step: int) -> None:
        writer.save(step, *state())

    blocked: list[float] = []
    total: list[float] = []
    with CheckpointWriter(folder) as writer:
        for step in range(arguments.repeats + 1):
            began = time.perf_counter()
            blocked.append(seconds(partial(save, writer, step)))
            writer.wait()
            total.append(time.perf_counter() - began)
    finished = threading.Event()
    with CheckpointWriter(folder, after=lambda path: finished.set()) as writer:
        writer.prepare(state()[0])
        writer.wait()
        prepared = seconds(partial(save, writer, 0))
        writer.wait()

        def work() -> None:
            for _ in range(20):
                x @ weight

        work()
        alone = statistics.median(seconds(work) for _ in range(9))
        finished.clear()
        save(writer, 1)
        beside = []
        while not finished.is_set():
            beside.append(seconds(work))
    path = folder / "step-000001"
    size = sum(file.stat().st_size for file in path.iterdir())
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "checkpoint_bytes": size,
        "blocked_first_s": blocked[0],
        "blocked_prepared_s": prepared,
        "blocked_later_s": statistics.median(blocked[1:]),
        "total_s": statistics.median(total[1:]),
        "training_beside_over_alone": alone / statistics.median(beside) if beside else None,
        "verify_s": statistics.median(seconds(lambda: verify_checkpoint(path)) for _ in range(3)),
        "load_s": statistics.median(seconds(lambda: load_checkpoint(path)) for _ in range(3)),
        "torch_save_blocked_s": statistics.median(
            seconds(
                lambda: torch_save(folder, {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
            )
            for _ in range(3)
        ),
    }
    shutil.rmtree(folder)
    for key, value in result.items():
        print(f"{key:28} {value:,.3f}" if isinstance(value, float) else f"{key:28} {value}")
    slowest = max(prepared, *blocked[1:])
    print(
        f"slowest block, buffers ready {slowest:.3f} s, aim under 0.5: {'met' if slowest < 0.5 else 'missed'}"
    )
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
