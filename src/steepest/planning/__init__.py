"""Planning: measure this machine, then choose what a budget buys before training starts."""

from steepest.planning.choose import choose

__all__ = ["choose"]
