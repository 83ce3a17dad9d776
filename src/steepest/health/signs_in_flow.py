"""Signs in the gradient flow: what a probe shows of depth, dead parts, rates, attention and embeddings.

Each sign is one rule with one or two thresholds. How they were set, between what twenty-two healthy runs show and
what runs made sick on purpose show, is the table in docs/health.md.
"""

from collections.abc import Iterator
from itertools import pairwise
from statistics import median

from steepest.health.history import History, Record, Verdict

FIRST_TO_LAST = 30.0  # gain of the stream's gradient through all blocks, either way; healthy: 0.7 to 16
RELATIVE = 3.0  # the same of gradient times activation, once trained; healthy: up to 1.2
FORWARD_GROWTH = 1e3  # of the stream through all blocks, at the first probe; healthy: 1
SILENT = 1e-4  # what a part adds, over the stream it adds to; healthy: from 0.017
BESIDE = 0.05  # the same, over the loudest part's; healthy: from 0.005 in 24 blocks, which SILENT lets pass
DEAD_SHARE = 0.3  # of an mlp's units; healthy: 0
TOO_LARGE = 0.15  # update at the peak rate, over the weights as they began; healthy: up to 0.03
TOO_SMALL = 1.2e-3  # update at the peak rate, over the weights; healthy: from 0.0097
LOGIT, LOGIT_GROWTH = 40.0, 3.0  # largest, and over the first probe's; healthy: up to 11.3
COSINE = 0.9  # mean, of two embeddings; healthy: 0.01, tied 0.57
PATIENCE = 20  # steps after warm-up before parts that start at zero are judged
LEAST_FACTOR = 0.2  # of the peak rate, below which updates say little about it


def vanishing(history: History) -> Verdict | None:
    """The stream's gradient is far smaller before the first block than after the last."""
    step, _, flow = history.flows[-1]
    gradients = flow["stream"]["gradient"]
    if gradients[0] == 0 and gradients[-1] and step > 1:
        return Verdict(
            "vanishing gradient", step, "block 1",
            f"Gradients vanish: none at all reaches block 1 of {len(gradients) - 1} at step {step}; give every block "
            "a residual connection and a norm, or start from larger weights.", 0.0,
        )  # fmt: skip
    ratio = flow["first_to_last"]
    if ratio is None or ratio >= 1 / FIRST_TO_LAST:
        return None
    worst = _worst_block(gradients, smallest=True)
    return Verdict(
        "vanishing gradient", step, f"block {worst + 1}",
        f"Gradients vanish with depth: at step {step} only {ratio:.2g} of the stream's gradient is left before block 1 "
        f"of {len(gradients) - 1}, and most is lost in block {worst + 1}; give every block a residual connection that "
        "passes the stream unscaled, or take fewer blocks.", ratio,
    )  # fmt: skip


def exploding(history: History) -> Verdict | None:
    """The stream or its gradient grows by orders of magnitude through the blocks."""
    step, _, flow = history.flows[-1]
    first = len(history.flows) == 1
    gradients, activations = flow["stream"]["gradient"], flow["stream"]["activation"]
    ratio = flow["first_to_last"]
    growth = activations[-1] / activations[0] if activations[0] and activations[-1] is not None else None
    if first and (growth is None or growth > FORWARD_GROWTH):
        worst = _first_growth(activations)
        said = "to values that are not finite" if growth is None else f"{growth:.2g} times"
        return Verdict(
            "exploding gradient", step, f"block {worst + 1}",
            f"The stream explodes with depth, and gradients with it: it grows {said} from block 1 to block "
            f"{len(gradients) - 1}, most in block {worst + 1}; normalise each block's input, or start from output "
            "projections of zero.", -1.0 if growth is None else growth,
        )  # fmt: skip
    if ratio is None or ratio <= FIRST_TO_LAST:
        return None
    if not first and (growth is None or ratio / growth <= RELATIVE):
        return None  # a stream that grew in training shrinks gradients by as much: the two together are what counts
    worst = _worst_block(gradients, smallest=False)
    return Verdict(
        "exploding gradient", step, f"block {worst + 1}",
        f"Gradients explode with depth: at step {step} the stream's gradient before block 1 is {ratio:.3g} times that "
        f"after block {len(gradients) - 1}, and grows most in block {worst + 1}; add residual connections, normalise "
        "each block's input, or scale its output by 1/sqrt(2 x depth).", ratio,
    )  # fmt: skip


def dead_layer(history: History) -> Verdict | None:
    """A half of a block adds nothing to the stream, or has no gradient while others have."""
    step, _, flow = history.flows[-1]
    if not _after_warm_up(history):
        return None
    shares = {
        f"block {index + 1} {half}": added / before if added is not None and before else None
        for half in ("attention", "mlp")
        for index, (added, before) in enumerate(
            zip(flow[half]["activation"], flow["stream"]["activation"], strict=False)
        )
    }
    loudest = max((share for share in shares.values() if share is not None), default=0.0)
    for layer, share in shares.items():
        if share is not None and share < SILENT and share < BESIDE * loudest:
            return Verdict(
                "dead layer", step, layer,
                f"Dead layer: {layer} adds {share:.1g} of the stream it adds to at step {step} (healthy ones add 0.02 or "
                "more); see whether its weights are trained, and lower optim.weight_decay times optim.lr if it shrank.",
                share,
            )  # fmt: skip
    gradients = {
        f"block {index + 1} {half}": gradient
        for half in ("attention", "mlp")
        for index, gradient in enumerate(flow[half]["gradient"])
    }
    alive = [gradient for gradient in gradients.values() if gradient]
    for layer, gradient in gradients.items():
        if alive and not gradient:
            return Verdict(
                "dead layer", step, layer,
                f"Dead layer: no gradient reaches the weights of {layer} at step {step}, while others have "
                f"{median(alive):.1g}; see whether they are frozen or cut off from the loss.", 0.0,
            )  # fmt: skip
    return None


def dead_units(history: History) -> Verdict | None:
    """A large share of one mlp's units never answers."""
    step, _, flow = history.flows[-1]
    shares = [share or 0.0 for share in flow["mlp"]["dead"]]
    worst = max(range(len(shares)), key=lambda index: shares[index])
    if shares[worst] <= DEAD_SHARE or not _after_warm_up(history):
        return None
    return Verdict(
        "dead units", step, f"block {worst + 1} mlp",
        f"Dead units: {shares[worst]:.0%} of the units of block {worst + 1} mlp stay at zero for every token at step "
        f"{step}; lower optim.lr or lengthen optim.warmup, or take a smaller model.mlp_width.", shares[worst],
    )  # fmt: skip


def rate_too_high(history: History) -> Verdict | None:
    """At the peak rate one step moves the matrices by a large part of the size they began with."""
    step, factor, flow = history.flows[-1]
    first = history.flows[0][2]
    if history.settled is None or factor < LEAST_FACTOR or len(history.flows) < 2:
        return None
    moves = [
        update * now / start / factor
        for update, now, start in _matrices(flow, first)
        if update is not None and now and start
    ]
    if not moves or median(moves) <= TOO_LARGE:
        return None
    size = median(moves)
    return Verdict(
        "rate too high", step, None,
        f"The learning rate is too high: at its peak of {history.habits.lr:.2g} one step moves the matrices by "
        f"{size:.0%} of the size they began with (healthy: 1% to 3%); lower optim.lr to about "
        f"{history.habits.lr * 0.02 / size:.1g}.", size,
    )  # fmt: skip


def rate_too_low(history: History) -> Verdict | None:
    """At the peak rate one step hardly moves the matrices."""
    step, factor, flow = history.flows[-1]
    if not _after_warm_up(history) or factor < LEAST_FACTOR:
        return None
    moves = [update / factor for update, _, _ in _matrices(flow, flow) if update is not None]
    if not moves or median(moves) >= TOO_SMALL:
        return None
    size = median(moves)
    aim = f"to about {history.habits.lr * 0.015 / size:.1g}" if size else "a great deal"
    return Verdict(
        "rate too low", step, None,
        f"The learning rate is too low: at its peak of {history.habits.lr:.2g} one step moves the matrices by "
        f"{size:.2%} (healthy: 1% to 2.5%); raise optim.lr {aim}.", size,
    )  # fmt: skip


def attention_logits(history: History) -> Verdict | None:
    """Attention logits have grown until softmax is all or nothing."""
    step, _, flow = history.flows[-1]
    logits = [logit or 0.0 for logit in flow["attention"]["logit"]]
    worst = max(range(len(logits)), key=lambda index: logits[index])
    began = history.flows[0][2]["attention"]["logit"][worst] or 0.0
    if logits[worst] <= LOGIT or logits[worst] < LOGIT_GROWTH * began:
        return None
    return Verdict(
        "attention logits growing", step, f"block {worst + 1} attention",
        f"Attention logits grow: the largest is {logits[worst]:.3g} in block {worst + 1} attention at step {step}, from "
        f"{began:.2g} at the start, and softmax turns all or nothing; lower optim.lr, or hold the gains of queries and "
        "keys down.", logits[worst],
    )  # fmt: skip


def collapse(history: History) -> Verdict | None:
    """All embeddings point the same way."""
    step, _, flow = history.flows[-1]
    cosine = flow["embedding"]["cosine"]
    if cosine is None or cosine <= COSINE:
        return None
    return Verdict(
        "embeddings collapsing", step, "embedding",
        f"Embeddings collapse: two tokens' embeddings have a cosine of {cosine:.3f} on average at step {step}, so that "
        "tokens can hardly be told apart; look for a loss or a decay that pulls them together, and lower "
        "optim.embedding_lr.", cosine,
    )  # fmt: skip


def decay_share(history: History) -> float | None:
    """Share of each update that weight decay takes back: ``lr * decay`` over the relative update."""
    if not history.flows or not history.steps:
        return None
    _, _, flow = history.flows[-1]
    moves = [update for update, _, _ in _matrices(flow, flow) if update]
    lr = float(history.steps[-1]["lr"])
    return lr * history.habits.weight_decay / median(moves) if moves else None


def _matrices(flow: Record, first: Record) -> Iterator[tuple[float | None, float | None, float | None]]:
    """Relative update, weight, and weight in another probe, of every block's attention and mlp."""
    for half in ("attention", "mlp"):
        yield from zip(flow[half]["update"], flow[half]["weight"], first[half]["weight"], strict=True)


def _after_warm_up(history: History) -> bool:
    return history.settled is not None and history.flows[-1][0] >= history.settled + PATIENCE


def _worst_block(gradients: list[float | None], *, smallest: bool) -> int:
    """The block over which the gradient, on its way back, loses or gains most."""
    gains = [
        (before or 0.0) / after if after else (0.0 if smallest else float("inf"))
        for before, after in pairwise(gradients)
    ]
    return gains.index(min(gains) if smallest else max(gains))


def _first_growth(activations: list[float | None]) -> int:
    """The block over which the stream grows most; one that makes it infinite comes first."""
    gains = [
        float("inf") if after is None else after / before if before else 0.0
        for before, after in pairwise(activations)
    ]
    return gains.index(max(gains))
