"""Figures for people (matplotlib), and a report as one HTML page."""

from edgeae.report.figures import FORMATS, check_figure_path, draw_reconstructions, draw_rows, draw_scores
from edgeae.report.page import write_report

__all__ = ["FORMATS", "check_figure_path", "draw_reconstructions", "draw_rows", "draw_scores", "write_report"]
