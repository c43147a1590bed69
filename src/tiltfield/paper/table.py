"""The report of a study as plain values, and as Markdown made from these and nothing else."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tiltfield.judge import markdown

Report = dict[str, Any]
"""Plain values: study, title, origin, options, images, note, picture, sources, devices; rows of :func:`row_report`."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: above it.
        name: of the figure.
        digits: after the point.
        factor: on the figure.
        best: max or min, to mark the best; None for a cost, of which the mean alone is shown.
    """

    heading: str
    name: str
    digits: int = 2
    factor: float = 1.0
    best: Callable[[list[float]], float] | None = None


VOLUME_COLUMNS = (
    Column("2D PSNR", "psnr_views_db", best=max),
    Column("2D MSE ×100", "mse_views", 3, 100, best=min),
    Column("2D DSSIM ×10", "dssim_views", 3, 10, best=min),
    Column("3D PSNR", "psnr_minmax_db", best=max),
    Column("3D MSE ×100", "mse_minmax", 3, 100, best=min),
    Column("affine PSNR", "psnr_affine_db", best=max),
    Column("inside", "psnr_inside_db", best=max),
    Column("seconds", "seconds", 1),
    Column("CPU s", "cpu_seconds", 1),
    Column("peak GiB", "peak_memory_bytes", 2, 2.0**-30),
)
NOISE_COLUMNS = (
    Column("JSD ×100", "jsd", 3, 100, best=min),
    Column("BC", "bc", 5, best=max),
    Column("distance ×10", "bd", 4, 10, best=min),
    Column("JSD ×100, by intensity", "jsd_binned", 3, 100, best=min),
    Column("BC, by intensity", "bc_binned", 5, best=max),
    Column("distance ×10, by intensity", "bd_binned", 4, 10, best=min),
    Column("log-likelihood", "log_likelihood", 4, best=max),
    Column("fit, s", "seconds", 1),
)
PUBLISHED_VOLUME = {
    "published 2D": ("psnr_2d", "mse_2d", "dssim_2d"),
    "published 3D": ("psnr_3d", "mse_3d"),
}
PUBLISHED_NOISE = {"published": ("jsd", "bc", "bd")}
_DIGITS = {"mse_2d": 3, "dssim_2d": 3, "mse_3d": 3}  # as printed; of others 2


def row_report(
    title: str,
    seeds: Sequence[Mapping[str, Any]],
    *,
    sees: str = "",
    published: Mapping[str, float | None] | None = None,
    remarks: Sequence[str] = (),
    rival: bool = True,
) -> Report:
    """Return a row of a report.

    Args:
        title: of the row.
        seeds: figures, one mapping per seed that ran, "seed" among them.
        sees: which images.
        published: figures in the paper's units.
        remarks: what must be known: settings that were chosen, why something did not run.
        rival: whether it may be marked as the best.

    Returns:
        plain values, with "mean" and "sd" (standard deviation over the seeds, 0 for one) of every figure.
    """
    names = {name for figures in seeds for name, value in figures.items() if _is_number(value) and name != "seed"}
    values = {n: [float(f[n]) for f in seeds if _is_number(f.get(n))] for n in sorted(names)}
    return {
        "title": title,
        "sees": sees,
        "seeds": [dict(figures) for figures in seeds],
        "mean": {n: statistics.fmean(v) for n, v in values.items()},
        "sd": {n: statistics.stdev(v) if len(v) > 1 else 0.0 for n, v in values.items()},
        "published": {n: v for n, v in (published or {}).items() if v is not None},
        "remarks": list(remarks),
        "rival": rival,
    }


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def as_markdown(report: Report) -> str:
    """Return a report as Markdown.

    Args:
        report: as :data:`Report` says.
    """
    noise = report["study"] == "noise"
    columns = NOISE_COLUMNS if noise else VOLUME_COLUMNS
    parts = [f"# {report['title']} (`{report['study']}`)", _head(report)]
    parts.append(_table(report, columns, PUBLISHED_NOISE if noise else PUBLISHED_VOLUME))
    parts += [text for text in (_legend(noise), report["note"]) if text]
    if report["picture"]:
        parts.append(f"![{report['title']}]({report['picture']})")
    return "\n\n".join(parts) + "\n"


def _head(report: Report) -> str:
    o = report["options"]
    limits = []
    if o["budget"]:
        limits.append(f"at most {o['budget']:g} s a fit of the paper's models, a tenth of it for tiltfield")
    if o["steps"]:
        limits.append(f"{o['steps']} steps of the paper's models")
    made_by = "; ".join(f"tiltfield source {source}" for source in report["sources"])
    parts = [
        f"{report['origin']} of the paper",
        f"cells of {o['size']}³ voxels, {o['seeds']} seed{'s' * (o['seeds'] > 1)}, mean ± standard deviation",
        report["images"],
        *([] if report["study"] == "noise" else limits),
        *report["devices"],
    ]
    return "; ".join(parts) + f" ({made_by})." * bool(made_by) + "." * (not made_by)


def _legend(noise: bool) -> str:
    if noise:
        return (
            "JSD is the Jensen-Shannon divergence in bits, BC the Bhattacharyya coefficient, distance -ln BC, all of "
            "the noise as a whole. The paper does not say how its figures are scaled: its BC and distance go together "
            "if the distance is shown times 10; a JSD above 1 bit can only be a multiple, here taken for 100."
        )
    return (
        "PSNR in dB. 2D: 20 projections in random directions; 2D and 3D are of volumes scaled to [0, 1] by their "
        "extremes, as published; affine PSNR and inside (of the slab) are after the best affine fit. Published: PSNR / "
        "MSE ×100 / DSSIM ×10. Bold: the best mean of a column. CPU s counts all threads; peak GiB is of the fit's "
        "process."
    )


def _table(report: Report, columns: Sequence[Column], published: Mapping[str, tuple[str, ...]]) -> str:
    rows, sees = report["rows"], any(row["sees"] for row in report["rows"])
    shown = {h: names for h, names in published.items() if any(n in row["published"] for row in rows for n in names)}
    remarks = any(row["remarks"] for row in rows)
    header = ["method", *["sees"] * sees, *(c.heading for c in columns), *shown, *["remarks"] * remarks]
    bests = [_best(rows, column) for column in columns]
    cells = [
        [
            row["title"],
            *[row["sees"]] * sees,
            *_figures(row, columns, bests),
            *(_printed(row["published"], names) for names in shown.values()),
            *[_plain("; ".join(row["remarks"]))] * remarks,
        ]
        for row in rows
    ]
    return markdown(tuple(header), cells)


def _best(rows: Sequence[Report], column: Column) -> float | None:
    means = [row["mean"][column.name] for row in rows if row["rival"] and column.name in row["mean"]]
    return column.best(means) if column.best and len(means) > 1 else None


def _figures(row: Report, columns: Sequence[Column], bests: Sequence[float | None]) -> list[str]:
    """Return the cells of a row's figures; those of a row without any begin with "not run"."""
    if not row["seeds"]:
        return ["not run", *["–"] * (len(columns) - 1)]
    return [_cell(row, column, best) for column, best in zip(columns, bests, strict=True)]


def _cell(row: Report, column: Column, best: float | None) -> str:
    """Return "mean ± standard deviation", in bold if it is the best."""
    if column.name not in row["mean"]:
        return "–"
    text = f"{row['mean'][column.name] * column.factor:.{column.digits}f}"
    if len(row["seeds"]) > 1 and column.best:
        text += f" ± {row['sd'][column.name] * column.factor:.{column.digits}f}"
    return f"**{text}**" if row["rival"] and row["mean"][column.name] == best else text


def _printed(published: Mapping[str, float], names: tuple[str, ...]) -> str:
    """Return published figures as the paper prints them, "–" for none."""
    values = [f"{published[name]:.{_DIGITS.get(name, 2)}f}" if name in published else "–" for name in names]
    while len(values) > 1 and values[-1] == "–":
        values.pop()
    return " / ".join(values)


def _plain(text: str) -> str:
    """Return text that may stand in a cell."""
    return " ".join(text.replace("|", "/").split())
