"""From a run folder to one page: reads files only, uses no tensors, never fails on what is missing or broken."""

from steepest.report.compare import write_comparison
from steepest.report.page import write_report
from steepest.report.reading import RunRecord, read_run

__all__ = ["RunRecord", "read_run", "write_comparison", "write_report"]
