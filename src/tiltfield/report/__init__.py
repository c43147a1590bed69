"""What a person sees of a run: the progress on the screen and the pictures."""

from __future__ import annotations

from tiltfield.report.preview import compare_figure, preview, save_preview
from tiltfield.report.screen import Screen

__all__ = ["Screen", "compare_figure", "preview", "save_preview"]
