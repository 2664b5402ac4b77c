"""Figures for people (matplotlib)."""

from edgeae.report.figures import FORMATS, check_figure_path, draw_reconstructions, draw_rows, draw_scores

__all__ = ["FORMATS", "check_figure_path", "draw_reconstructions", "draw_rows", "draw_scores"]
