"""A predicted step is the step: to the allocator's own count, to the byte in depth, for anyone's step."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import steepest.memory.measure as measuring
from steepest.config import build
from steepest.memory import measured, predict
from steepest.memory.measure import allocator_timeline, free, resident
from steepest.memory.tracker import Tracker
from steepest.model import Transformer, VocabularyHead
from steepest.train.footprint import measure_training, predict_inference, predict_training
from steepest.train.run import RunConfig


def config(sequences: int = 4, **fields: Any) -> RunConfig:
    model = {"vocab_size": 300, "depth": 3, "width": 64, "context": 64} | fields.pop("model", {})
    optim = {"optimizer": fields.pop("optimizer", "adamw")}
    train = {"steps": 1, "device": "cpu", "dtype": "float32"} | fields
    batches = {"batch_tokens": sequences * model["context"]}
    return build(RunConfig, {"model": model, "optim": optim, "train": train, "batches": batches})


CASES = {
    "adamw": config(),
    "sgd": config(optimizer="sgd"),
    "muon": config(optimizer="muon"),
    "grouped queries": config(model={"kv_heads": 1}),
    "tied": config(model={"tie_embeddings": True}),
    "dropout": config(model={"dropout": 0.1}),
    "micro-batches": config(sequences=8, micro_batch=2),
    "recomputed": config(recompute_blocks=3, backward="recompute"),
    "some recomputed": config(recompute_blocks=1, backward="recompute"),
    "long": config(sequences=1, model={"context": 640}),
    "large vocabulary": config(model={"vocab_size": 6000}),
    "reversible": config(model={"coupling": "reversible"}),
}


@pytest.mark.parametrize("name", CASES)
def test_predicted_is_what_the_allocator_counts(name: str) -> None:
    predicted = predict_training(CASES[name])
    measured_step = max(measure_training(CASES[name]))
    assert predicted.peak == pytest.approx(measured_step, rel=2e-3)


@pytest.mark.parametrize("recomputed", [0, 1, 5, 10])
@pytest.mark.parametrize("fields", [{}, {"optimizer": "muon", "micro_batch": 1}], ids=["adamw", "muon"])
def test_any_depth_from_shallow_ones_to_the_byte(fields: dict[str, Any], recomputed: int) -> None:
    deep = config(model={"depth": 10}, **fields)
    exact = predict_training(deep, recompute_blocks=recomputed, whole=True)
    extrapolated = predict_training(deep, recompute_blocks=recomputed)
    assert extrapolated.peak == exact.peak
    # Clipping stacks one norm a parameter, 4 bytes each, rounded up to 64: not affine, and never the peak.
    norms, exact_norms = extrapolated.phases.pop("between").total, exact.phases.pop("between").total
    assert abs(norms - exact_norms) <= 512
    assert extrapolated.phases == exact.phases
    assert (extrapolated.steady, extrapolated.held) == (exact.steady, exact.held)
    assert extrapolated.flops == pytest.approx(exact.flops)
    assert not extrapolated.timeline
    assert max(live for _, live in exact.timeline) == exact.peak


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_reversible_depth_is_exact_and_holds_nothing_a_layer(dtype: str) -> None:
    def at(depth: int, whole: bool = False) -> Any:
        return predict_training(
            config(dtype=dtype, model={"depth": depth, "coupling": "reversible"}), whole=whole
        )

    assert at(9).peak == at(9, whole=True).peak
    assert at(9).held == at(4).held


def test_splitting_and_recomputing_take_less() -> None:
    one = config(sequences=16, model={"depth": 6})
    peaks = [predict_training(one, micro_batch=micro).peak for micro in (16, 8, 4, 2)]
    assert peaks == sorted(peaks, reverse=True)
    held = [predict_training(one, recompute_blocks=k).held for k in (0, 3, 6)]
    assert held == sorted(held, reverse=True)
    assert predict_inference(one, sequences=4).peak < predict_training(one, micro_batch=4).peak


def test_autocast_holds_less() -> None:
    assert predict_training(config(dtype="bfloat16")).held < predict_training(config()).held


def test_inference_takes_the_most_demanding_layer_at_any_depth() -> None:
    shallow, deep = (predict_inference(config(model={"depth": d}), sequences=8) for d in (2, 40))
    assert shallow.peak - shallow.steady == deep.peak - deep.steady


def test_parts_of_the_worst_moment_add_up() -> None:
    prediction = predict_training(config(optimizer="adamw"))
    trunk = Transformer(config().model)
    parameters = sum(x.numel() for x in [*trunk.parameters(), *VocabularyHead(trunk).parameters()])
    update = prediction.phases["update"]
    assert prediction.worst.total == prediction.peak
    assert update.weights == pytest.approx(4 * parameters, rel=0.02)  # and 8 bytes a token of the vocabulary
    assert update.gradients == pytest.approx(4 * parameters, rel=0.01)
    assert update.optimiser == pytest.approx(8 * parameters, rel=0.01)


def test_a_step_of_ones_own_is_predicted_and_left_alone() -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256))
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(64, 256)
    before = [parameter.clone() for parameter in model.parameters()]

    def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> float:
        loss = model(x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    predicted = predict(step, model, optimizer, x)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizer.state
    step(model, optimizer, x)
    counted = max(allocator_timeline(lambda: step(model, optimizer, x)))
    assert predicted.peak - predicted.steady == pytest.approx(counted, abs=2000)


def test_the_layers_of_ones_own_model_are_found() -> None:
    layers = nn.Sequential(nn.Linear(32, 512, bias=False), nn.ReLU(), nn.Linear(512, 32, bias=False))
    model = nn.ModuleDict({"layers": layers, "head": nn.Linear(32, 1000, bias=False)})

    def step(model: nn.ModuleDict, x: torch.Tensor) -> None:
        model["head"](model["layers"](x)).sum().backward()

    predicted = predict(step, model, torch.zeros(64, 32))
    assert predicted.layer == 64 * 512 * 4  # the first; the second makes as much
    assert predicted.loss == 64 * 1000 * 4 + 64  # logits, and their sum
    assert f"{predicted.peak / 1e6:,.2f}" in predicted.table() and "backward" in predicted.table()


def test_shared_weights_are_counted_once() -> None:
    first, second = nn.Linear(100, 100, bias=False), nn.Linear(100, 100, bias=False)
    second.weight = first.weight
    predicted = predict(lambda model, x: model(x), nn.Sequential(first, second), torch.zeros(1, 100))
    assert predicted.worst.weights == 40_000  # a multiple of 64


def test_the_tracker_counts_real_tensors_too() -> None:
    with Tracker() as tracker:
        x = torch.zeros(1000)
        y = x.view(10, 100)  # no new storage
        z = y @ y.T
        del x, y
    assert (tracker.peak, tracker.total) == (4032 + 448, 448)
    assert sum(tracker.flops.values()) == 2 * 10 * 10 * 100
    del z


def test_measured_sees_what_a_process_takes() -> None:
    with measured() as outside:
        x = torch.ones(50_000_000)
        del x
    # What an earlier test left in the heap is used first, so less may be added.
    assert outside.added < 260e6
    assert 0 < outside.before <= outside.peak
    assert free() > 0 and resident() > 0


def test_pages_of_files_that_were_read_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {
        "memory.max": ["1000"],
        "memory.current": ["900"],
        "memory.stat": ["anon 100", "inactive_file 600", "file 800"],
    }
    monkeypatch.setattr(measuring, "_lines", lambda path: told.get(path.name, []))
    assert free() == 1000 - 900 + 600


RETURN = """
import torch
from steepest.memory.measure import measured, resident, return_pages
returned = return_pages()
before = resident()
with measured() as m:
    x = torch.ones(10_000_000)
    del x
print(returned, resident() - before, m.added)
"""


def test_returned_pages_leave_the_process() -> None:
    # In a process of its own, whose heap holds nothing that could be used first.
    done = subprocess.run([sys.executable, "-c", RETURN], capture_output=True, text=True, check=True)
    returned, kept, added = done.stdout.split()
    if returned == "True":  # where there is a glibc
        assert int(kept) < 2_000_000 < 38e6 < int(added) < 45e6
