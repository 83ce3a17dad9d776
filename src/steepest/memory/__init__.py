"""Memory: known before it is taken, chosen to fit.

predict   the peak of a step, from fake tensors      measure  what a process really took
tracker   live bytes, operation by operation         choose   the fastest split that fits a limit
"""

from steepest.memory.measure import Measurement, measured, return_pages
from steepest.memory.predict import Prediction, predict

__all__ = ["Measurement", "Prediction", "measured", "predict", "return_pages"]
