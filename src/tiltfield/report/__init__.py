"""What a person sees of a run: the progress on the screen, the pictures, and the report."""

from __future__ import annotations

from tiltfield.report.page import make_report, save_report
from tiltfield.report.preview import compare_figure, draw_comparison, draw_images, draw_sections, preview, save_preview
from tiltfield.report.screen import Screen

__all__ = [
    "Screen",
    "compare_figure",
    "draw_comparison",
    "draw_images",
    "draw_sections",
    "make_report",
    "preview",
    "save_preview",
    "save_report",
]
