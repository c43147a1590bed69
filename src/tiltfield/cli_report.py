"""`tiltfield report`: the page of a run, made again."""

from __future__ import annotations

from pathlib import Path

from tiltfield.cli_flags import Switch


def report(folder: Path, /, *, series: Path | None = None, out: Path | None = None, quiet: Switch = False) -> None:
    """Make the report of a run: one page with sections, images, residuals, curves and what to know first.

    Args:
        folder: of tiltfield reconstruct
        series: where the tilt series lies now, if it has moved
        out: HTML file to write; report.html in the folder if not given
        quiet: print nothing but errors
    """
    from tiltfield.report import make_report

    path = make_report(folder, series=series, out=out)
    if not quiet:
        print(f"wrote {path} ({path.stat().st_size / 1e6:.1f} MB): open it in a browser")
