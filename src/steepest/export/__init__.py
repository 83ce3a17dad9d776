"""Export: a run as files that other programs load."""

from steepest.export.hugging_face import export_hugging_face

__all__ = ["export_hugging_face"]
