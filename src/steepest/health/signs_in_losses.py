"""Signs in the steps and evaluations: clipping, spikes, steps that are not finite, divergence, over-fitting.

Thresholds are set as in ``signs_in_flow.py``, see docs/health.md.
"""

from statistics import fmean, median

from steepest.health.history import History, Verdict
from steepest.health.signs_in_flow import decay_share

CLIPPED_SHARE, CLIPPED_TIMES, CLIPPED_STEPS = 0.98, 2.0, 64  # share of steps, norm over clip, steps looked at
SPIKE_SIGMAS, SPIKE_EXCESS, SPIKE_WINDOW = 6.0, 1.25, 64  # robust sigmas, over the median, steps before
NOT_FINITE = 3  # skipped steps among those looked back on
DIVERGED, SMOOTH = 1.15, 32  # mean loss over the best there was, steps that are averaged
OVER = 1.02  # held-out loss over its best, twice in a row
BY_HEART = 0.05  # nats a target, below which the data is known by heart and ratios of losses say nothing
GAP = 0.9  # training loss over held-out loss, at most


def clipping(history: History) -> Verdict | None:
    """Nearly every step's gradient is far longer than the clip."""
    clip, settled = history.habits.clip, history.settled
    recent = list(history.steps)[-CLIPPED_STEPS:]
    if not clip or settled is None or len(recent) < CLIPPED_STEPS or recent[0]["step"] <= settled:
        return None
    norms = [record["grad_norm"] for record in recent if record["verdict"] == "ok"]
    if not norms:
        return None
    share = fmean(norm > clip for norm in norms)
    times = median(norms) / clip
    if share < CLIPPED_SHARE or times < CLIPPED_TIMES:
        return None
    return Verdict(
        "clipping on every step", recent[-1]["step"], None,
        f"Clipping on every step: {share:.0%} of the last {len(norms)} gradients are longer than optim.clip = {clip:g}, by "
        f"{times:.3g} times at the median, so that clipping no longer tells a spike from an ordinary step; set "
        f"optim.clip to about {2 * median(norms):.1g}.", times,
    )  # fmt: skip


def spike(history: History) -> Verdict | None:
    """One step's loss stands far above those before it."""
    *before, last = history.steps
    losses = [record["loss"] for record in before[-SPIKE_WINDOW:] if record["verdict"] == "ok"]
    if len(losses) < SPIKE_WINDOW // 2 or history.settled is None or last["step"] <= history.settled:
        return None
    middle = median(losses)
    spread = 1.4826 * median(abs(loss - middle) for loss in losses) + 0.02 * abs(middle)
    loss = last["loss"]
    if middle < BY_HEART:
        return None
    # Losses that are not finite have a sign of their own.
    if not (middle + SPIKE_SIGMAS * spread < loss < float("inf")) or loss < SPIKE_EXCESS * middle:
        return None
    done = "the step was skipped" if last["verdict"] != "ok" else "the step was taken"
    return Verdict(
        "loss spike", last["step"], None,
        f"Loss spike at step {last['step']}: {loss:.3g} against {middle:.3g} before, gradient norm {last['grad_norm']:.2g}; "
        f"{done}; look at the data of that step, and if it comes again lower optim.lr or optim.spike_sigmas.",
        loss / middle,
    )  # fmt: skip


def not_finite(history: History) -> Verdict | None:
    """Several steps had a loss or gradient that is not a number."""
    bad = [record["step"] for record in history.steps if record["verdict"] == "non-finite"]
    if len(bad) < NOT_FINITE:
        return None
    return Verdict(
        "non-finite steps", bad[0], None,
        f"Steps that are not finite: {len(bad)} of the last {len(history.steps)} had a loss or gradient that is no number, "
        f"the first at step {bad[0]}, and were skipped; lower optim.lr, train in float32 (train.dtype), or look for "
        "a division by zero in the loss.", float(len(bad)),
    )  # fmt: skip


def divergence(history: History) -> Verdict | None:
    """The training loss has risen well above the best it had."""
    if history.settled is None or history.steps[-1]["step"] % (SMOOTH // 2):
        return None  # not at every step: nine medians
    losses = [record["loss"] for record in history.steps if record["verdict"] == "ok"]
    if len(losses) < 2 * SMOOTH:
        return None
    now = median(losses[-SMOOTH:])
    best = min(
        median(losses[end - SMOOTH : end]) for end in range(SMOOTH, len(losses) - SMOOTH + 1, SMOOTH // 2)
    )
    if now <= DIVERGED * best or best < BY_HEART:
        return None
    return Verdict(
        "rate too high", history.steps[-1]["step"], None,
        f"Training diverges: the loss is {now:.3g} over the last {SMOOTH} steps, from {best:.3g} before, at a rate of "
        f"{history.steps[-1]['lr']:.2g}; go back to a checkpoint before and halve optim.lr.", now / best,
    )  # fmt: skip


def over_fitting(history: History) -> Verdict | None:
    """The held-out loss rises, twice in a row, while the training loss falls far below it."""
    seen = history.evaluations
    if len(seen) < 3:
        return None
    best_step, best, _ = min(seen[:-1], key=lambda one: one[1])
    (_, earlier, trained_earlier), (step, held_out, trained) = seen[-2:]
    if not (held_out > OVER * best and earlier > OVER * best) or trained is None or trained_earlier is None:
        return None
    if trained > GAP * held_out or trained > trained_earlier:
        return None
    share, decay = decay_share(history), history.habits.weight_decay
    if not decay:
        part = "weight decay is off"
    elif share is None:
        part = f"weight decay is {decay:g}"
    else:
        part = f"weight decay of {decay:g} takes back {share:.0%} of each update"
    more = f"raise optim.weight_decay to {max(0.1, 3 * decay):.1g}"
    return Verdict(
        "over-fitting", step, None,
        f"Over-fitting since step {best_step}: the held-out loss rose from {best:.3g} to {held_out:.3g} while the training "
        f"loss fell to {trained:.3g}, a gap of {held_out - trained:.2g}, and {part}; stop there (the best checkpoint is "
        f"kept), get more data, or {more} and set model.dropout.", held_out - trained,
    )  # fmt: skip
