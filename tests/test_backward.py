"""For each coupling every backward gives the same loss and gradients, whatever else is asked for at the same time.

(Compiled blocks: ``test_reversible.py`` and ``test_activation_checkpointing.py``.)
"""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from steepest.data import Batch
from steepest.model.transformer import BACKWARDS
from steepest.objectives import NextToken
from test_reversible import VOCABULARY, make_ids, make_trunk

PAIRS = [(coupling, backward) for coupling, known in BACKWARDS.items() for backward in known]


def found(
    coupling: str, backward: str, *, dropout: float, autocast: bool, micro_batch: int
) -> tuple[Tensor, Tensor]:
    """Loss and gradient of one batch."""
    trunk = make_trunk(3, coupling=coupling, dropout=dropout)
    objective = NextToken(trunk, np.ones(VOCABULARY, np.int64))
    with torch.no_grad():
        objective.head.matrix.copy_(torch.randn(VOCABULARY, 32, generator=torch.Generator().manual_seed(0)))
    trunk.set_backward(backward)  # type: ignore[arg-type]
    ids = make_ids(4)
    torch.manual_seed(3)
    loss = objective.accumulate_gradient(
        Batch(ids, ids.roll(-1, 1), None, ids.numel()), micro_batch=micro_batch,
        autocast=torch.bfloat16 if autocast else None,
    )  # fmt: skip
    gradients = [parameter.grad for parameter in objective.parameters()]
    return loss, torch.cat([gradient.flatten() for gradient in gradients if gradient is not None])


@pytest.mark.parametrize(("coupling", "backward"), PAIRS)
@pytest.mark.parametrize("micro_batch", [4, 1], ids=["at once", "accumulated"])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_every_backward_is_that_of_stored_activations(
    coupling: str, backward: str, micro_batch: int, autocast: bool, dropout: float
) -> None:
    asked: dict[str, Any] = {"dropout": dropout, "autocast": autocast, "micro_batch": micro_batch}
    for one, other in zip(found(coupling, backward, **asked), found(coupling, "store", **asked), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
