"""Memory of training: what the backward pass holds, computes again, or rebuilds.

    activation_checkpointing  layers computed again in the backward pass instead of held
    reversible                layers whose inputs are rebuilt from their outputs, exactly
    gradient_caching          a loss over a whole batch, the activations of one chunk at a time

Takes callables of tensors, never a model.
"""
