"""Classification: one of a few labels for a whole sequence."""

from typing import Literal

from pydantic import Field, field_validator

from steepest.objectives.base import KindConfig
from steepest.objectives.scores import CLASSIFICATION, check_metric


class ClassificationConfig(KindConfig):
    """What classification can be told."""

    kind: Literal["classification"] = "classification"
    metric: str = Field("macro_f1", description="what chooses the checkpoint: " + ", ".join(CLASSIFICATION))

    @field_validator("metric")
    @classmethod
    def _known(cls, metric: str) -> str:
        check_metric(metric, CLASSIFICATION, "classification")
        return metric
