"""Planning: measure this machine, then choose what a budget buys before training starts."""

from steepest.planning.choose import choose, limit_vocabulary

__all__ = ["choose", "limit_vocabulary"]
