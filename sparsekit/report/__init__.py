"""What happened in a run, as a table and as a picture."""

from sparsekit.report.chart import draw_history
from sparsekit.report.table import history_table, last_values

__all__ = ["draw_history", "history_table", "last_values"]
