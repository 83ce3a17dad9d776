"""Classification: the loss against closed forms, padding that is not seen, the start at the lexical model."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from steepest.config import build
from steepest.data.labelled import EncodedRows, LabelledBatch
from steepest.data.padding import RaggedIds
from steepest.errors import ConfigError
from steepest.model import Transformer, TransformerConfig
from steepest.objectives import Classification, ClassificationConfig
from steepest.objectives.scores import classification_scores


def objective(seed: int = 0, **fields: object) -> Classification:
    """With every weight drawn, so that nothing is hidden by a zero."""
    config = build(
        ClassificationConfig,
        {"labels": ["a", "b", "c"], "counts": [6, 3, 1], "token_dropout": 0.0, **fields},
    )
    dice = torch.Generator().manual_seed(seed)
    trunk = Transformer(TransformerConfig(vocab_size=20, depth=2, width=32, context=16), dice)
    made = Classification(trunk, config, torch.rand(20, generator=dice) + 0.5)
    for parameter in made.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.3, generator=dice)
    return made.eval()


def rows(seed: int = 0) -> EncodedRows:
    dice = np.random.default_rng(seed)
    ids = RaggedIds.join([dice.integers(1, 20, n) for n in (3, 9, 1, 6, 5, 2, 9, 4)])
    offset = np.log(dice.dirichlet(np.ones(3), 8)).astype(np.float32)
    return EncodedRows(ids, dice.integers(0, 3, 8), offset)


def batch(which: list[int] | None = None, fill: int = 0) -> LabelledBatch:
    return rows().batch(np.array(range(8) if which is None else which), context=16, fill=fill)


def test_the_loss_is_the_closed_form() -> None:
    made = objective(label_smoothing=0.2, class_weights="balanced", logit_adjustment=0.7)
    part = batch()
    with torch.no_grad():
        prior = torch.tensor([0.6, 0.3, 0.1])
        logits = made.lexical_scale * part.offset_BC + made.network(part) + 0.7 * prior.log()
        log_p = logits - logits.logsumexp(1, keepdim=True)
        target = 0.8 * F.one_hot(part.labels_B, 3) + 0.2 / 3
        weights = torch.tensor([10 / 3 / 6, 10 / 3 / 3, 10 / 3 / 1])[part.labels_B]
        assert torch.allclose(made.loss(part), (-(target * log_p).sum(1) * weights).sum(), rtol=1e-5)


def test_at_first_it_says_what_the_lexical_model_says() -> None:
    config = ClassificationConfig(labels=["a", "b", "c"], counts=[1, 1, 1])
    made = Classification(Transformer(TransformerConfig(vocab_size=20, depth=1, width=32)), config).eval()
    part = batch()
    assert made.loss(part).item() == pytest.approx(
        F.nll_loss(part.offset_BC, part.labels_B, reduction="sum").item()
    )
    metrics = made.metrics([made.measure(part)])
    assert metrics["accuracy"] == (part.offset_BC.argmax(1) == part.labels_B).float().mean().item()


@pytest.mark.parametrize("pooling", ["mean", "max", "mean+max"])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_a_text_is_judged_alike_in_any_company(pooling: str, attention: str) -> None:
    made = objective(pooling=pooling, attention=attention)
    together = made.network(batch())
    for row in range(8):
        assert torch.allclose(made.network(batch([row], fill=7))[0], together[row], atol=2e-5)


def test_attention_sees_both_directions_or_only_the_past() -> None:
    for attention, sees in [("bidirectional", True), ("causal", False)]:
        made = objective(attention=attention)
        hidden: list[torch.Tensor] = []
        made.trunk.register_forward_hook(lambda _, inputs, out, kept=hidden: kept.append(out))
        part = batch([1])
        made.network(part)
        part.ids_BT[0, -1] = (part.ids_BT[0, -1] + 1) % 20
        made.network(part)
        changed = (hidden[0][0, 0] - hidden[1][0, 0]).abs().max().item() > 1e-4
        assert changed == sees


def test_micro_batches_give_the_gradient_of_the_whole() -> None:
    made = objective(class_weights="balanced")
    found = []
    for micro in (8, 3):
        made.zero_grad()
        made.accumulate_gradient(batch(), micro_batch=micro)
        found.append([p.grad.clone() for p in made.parameters() if p.grad is not None])
    assert len(found[0]) == len(list(made.parameters()))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_token_dropout_hides_tokens_from_attention_and_mean() -> None:
    made = objective(token_dropout=0.5).train()
    torch.manual_seed(0)
    one, other = made.network(batch()), made.network(batch())
    assert (one - other)[[0, 1, 3]].abs().min() > 0
    assert torch.allclose(one[2], other[2])  # a text of one token keeps it
    made.eval()
    assert torch.equal(made.network(batch()), made.network(batch()))


def test_only_rows_that_calibrate_change_the_blend() -> None:
    made = objective()
    part = batch()
    with torch.no_grad():
        before = made.metrics([made.measure(part)])
        assert made.blend_K.tolist() == [1, 1]
        after = made.metrics([made.measure(rows().batch(np.arange(8), context=16, fill=0, calibrates=True))])
    assert made.blend_K.tolist() != [1, 1]
    assert after["log_loss"] < before["log_loss"] and after["loss"] == pytest.approx(before["loss"])
    logits, labels, _ = made.measure(part)
    wanted = classification_scores(made.probabilities(logits), labels, ["macro_f1"])
    assert after["macro_f1"] == pytest.approx(wanted["macro_f1"])


def test_a_network_that_makes_the_metric_worse_is_not_believed() -> None:
    made = objective(metric="accuracy")
    labels = torch.tensor([0] * 60 + [1] * 40)
    lexical = torch.full((100, 3), -3.0)
    lexical[torch.arange(100), labels] = 0.0
    lexical[:10] = torch.tensor([-1.0, 0.0, -3.0])  # ten of them wrong
    network = torch.zeros(100, 3)
    network[:10, 0], network[60:, 0] = 0.9, 1.4  # it knows a little of those, at the cost of others
    logits = torch.stack([lexical, network])
    made.calibrate(logits, labels)
    alone = torch.cat([logits[:1], torch.zeros(1, 100, 3)])
    reached = (made.probabilities(logits).argmax(1) == labels).float().mean()
    assert reached >= (made.probabilities(alone).argmax(1) == labels).float().mean()
    network[:10, 0], network[60:, 0] = 3.0, 0.0  # and this one is right
    made.calibrate(torch.stack([lexical, network]), labels)
    assert (
        made.blend_K[1] > 0
        and (made.probabilities(torch.stack([lexical, network])).argmax(1) == labels).all()
    )


def test_classes_that_training_never_saw_count_as_wrong() -> None:
    made, part = objective(), batch()
    whole = made.metrics([made.measure(part)])["accuracy"]
    part.labels_B[:4] = 3 + torch.arange(4)
    metrics = made.metrics([made.measure(part)])
    right = (made.probabilities(made.measure(part)[0])[4:].argmax(1) == part.labels_B[4:]).sum().item()
    assert metrics["accuracy"] == pytest.approx(right / 8) and metrics["accuracy"] <= whole
    assert math.isfinite(metrics["loss"])


def test_without_a_lexical_model_its_weight_is_nothing() -> None:
    made = objective(lexical=False)
    part = rows().batch(np.arange(8), context=16, fill=0, calibrates=True)
    made.metrics([made.measure(part)])
    assert made.blend_K[0] == 0 and made.blend_K[1] >= 0
    assert not made.lexical_scale.requires_grad


def test_a_metric_for_two_classes_is_refused_for_three() -> None:
    with pytest.raises(ConfigError, match='"f1" is for two classes, the data has 3; use macro_f1'):
        build(ClassificationConfig, {"metric": "f1", "labels": ["a", "b", "c"]})
