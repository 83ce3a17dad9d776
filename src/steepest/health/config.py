"""What can be set about a run's health checks."""

from pydantic import Field

from steepest.config import RoomConfig


class HealthConfig(RoomConfig):
    """How often a run's gradient flow is probed, and on how much."""

    every: int = Field(25, ge=0, description="steps between two probes of the gradient flow; 0: none")
    rows: int = Field(2, ge=1, description="sequences of the step's batch that a probe looks at")
