"""Memory of training: known before it is taken, chosen to fit, held no longer than needed.

    predict                   the peak of a step, from fake tensors
    tracker                   live bytes, operation by operation
    measure                   what a process really took
    choose                    the fastest split of a batch that fits a limit
    activation_checkpointing  layers computed again in the backward pass instead of held
    reversible                layers whose inputs are rebuilt from their outputs, exactly
    gradient_caching          a loss over a whole batch, the activations of one chunk at a time

Takes callables of tensors, never a model.
"""

from steepest.memory.measure import Measurement, measured, return_pages
from steepest.memory.predict import Prediction, predict

__all__ = ["Measurement", "Prediction", "measured", "predict", "return_pages"]
