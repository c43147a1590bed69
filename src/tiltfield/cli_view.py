"""`tiltfield view`: a run in napari."""

from __future__ import annotations

from pathlib import Path


def view(source: Path, /) -> None:
    """Show a run in napari: the volume, the series and the uncertainty as layers.

    Args:
        source: the folder of a run, or a volume, MRC
    """
    from tiltfield.viewer import show

    show(source)
