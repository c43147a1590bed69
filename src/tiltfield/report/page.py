"""The report of a run: one page that needs no network, made from the run's folder."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tiltfield
from tiltfield.config import CLASSICAL, DENOISED, ReconstructConfig
from tiltfield.jsontext import as_json
from tiltfield.replacing import atomic
from tiltfield.report.advice import advice
from tiltfield.report.payload import payload
from tiltfield.report.record import Record, read_record
from tiltfield.report.screen import clock
from tiltfield.report.words import degrees, short

HERE = Path(__file__).parent
SCRIPTS = ("charts.js", "pictures.js", "volume.js", "player.js", "page.js")
TAGS = {"act": "Act", "look": "Look", "note": "Note"}
MODES = {"bf": "Bright field", "haadf": "HAADF"}
UNSET = ("none", "None", "()", "[]", "")


def make_report(folder: Path, *, series: Path | None = None, out: Path | None = None) -> Path:
    """Make the report of a run from its folder.

    Args:
        folder: of `tiltfield reconstruct`.
        series: where the tilt series lies now; where the run says, if None.
        out: HTML file to write; report.html in the folder, if None.

    Returns:
        the path written.

    Raises:
        InputError: if the folder holds no result, or it or the series cannot be read.
    """
    return save_report(read_record(folder, series), out or folder / "report.html")


def save_report(record: Record, path: Path) -> Path:
    """Write the report of a run.

    Args:
        record: of the run.
        path: HTML file to write.

    Returns:
        the path written.
    """
    text = page(record)
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def page(record: Record) -> str:
    """Return the report of a run as HTML, with everything it needs inside.

    Args:
        record: of the run.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup, escape

    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    environment.filters["code"] = lambda text: Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))
    data = payload(record)
    return environment.get_template("page.html.j2").render(
        **_context(record, data),
        css=Markup((HERE / "page.css").read_text(encoding="utf-8")),
        scripts=Markup("\n".join((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        data=Markup(as_json(data).replace("<", "\\u003c")),  # inside of strings alone: JSON has no other <
    )


def _context(record: Record, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the template says in words."""
    images = data["images"]
    return {
        "version": record.metrics.get("tiltfield", tiltfield.__version__),
        "title": record.source.name.split(".")[0] if record.source else record.folder.name,
        "folder": str(record.folder),
        "lead": _lead(record),
        "facts": _facts(record),
        "findings": advice(record),
        "tags": TAGS,
        "shown": images is not None,
        "rendered": images is not None and "rendered" in images,
        "fitted": record.config.method not in CLASSICAL,
        "volume_note": _volume_note(record, data["volume"]["bin"]),
        "images_note": _images_note(record, images),
        "residual_unit": "the noise" if data["unit"] == "noise" else "its deviation",
        "fit_note": _fit_note(record),
        "noise_note": _noise_note(record),
        "evaluation": _evaluation(record),
        "missing": _missing(record),
        "command": f"tiltfield evaluate {record.folder}",
        "done": _done(record),
        "settings": _settings(record.config),
        "notes": record.metrics.get("notes", []),
    }


def _lead(record: Record) -> str:
    mode = MODES.get(record.metrics.get("mode", ""), "")
    when = f"{record.finished:%d %B %Y, %H:%M}".lstrip("0")
    stopped = "stopped early" if record.metrics.get("interrupted") else ""
    return " · ".join(part for part in (mode, method_name(record), stopped, when) if part)


def method_name(record: Record) -> str:
    """Return how a run was made, in words.

    Args:
        record: of the run.
    """
    config = record.config
    if config.method == "neural":
        return f"neural field ({config.field}) under a noise model ({noise_name(record)})"
    names = {
        "sirt": f"SIRT, {config.sirt_iterations} iterations",
        "wbp": f"weighted back-projection, {config.wbp_filter}",
    }
    after = f", denoised by {config.denoiser}" if config.method in DENOISED else ""
    return names.get(config.method, f"published method {config.method}") + after


def noise_name(record: Record) -> str:
    """Return the name of the noise model that was used.

    Args:
        record: of the run.
    """
    return Path(record.metrics.get("noise", {}).get("model") or record.config.noise).name


def _facts(record: Record) -> list[dict[str, str]]:
    """Return the figures at the head of the page."""
    metrics, volume = record.metrics, record.volume
    shape = " × ".join(map(str, volume.data.shape))
    size = volume.voxel_size_nm
    extent = " × ".join(short(n * size) for n in volume.data.shape) + " nm" if size else "voxel size not known"
    facts = [("Volume (z, y, x)", shape, extent), ("Voxel", f"{short(size)} nm" if size else "–", _binning(record))]
    angles = record.angles_deg
    left_out = "" if record.config.exclude == "none" else f"without {record.config.exclude}"
    reach = f"{degrees(min(angles))} to {degrees(max(angles))}" if angles else ""
    facts.append(("Tilts", str(len(angles)) if angles else "–", ", ".join(filter(None, (reach, left_out)))))
    facts += [_error_fact(record), _resolution_fact(record)]
    device = str(metrics.get("device", ""))
    facts.append(("Time", clock(metrics.get("seconds") or 0.0), device))
    return [{"name": name, "value": value, "sub": sub} for name, value, sub in facts]


def _binning(record: Record) -> str:
    return f"images binned by {record.config.bin}" if record.config.bin > 1 else ""


def _error_fact(record: Record) -> tuple[str, str, str]:
    """Return the error of the images: of held-out pixels over the noise, or in grey values."""
    held = [v for v in record.metrics.get("tilts", {}).get("heldout_chi2", []) if v is not None]
    if held:
        return "Held-out error", f"{statistics.median(held):.2g} × noise", "squared, median over tilts"
    rmse = record.metrics.get("rmse")
    return ("Residual", short(rmse), "root mean square, grey values") if rmse is not None else ("Residual", "–", "")


def _resolution_fact(record: Record) -> tuple[str, str, str]:
    fsc = record.evaluation.get("fsc") or {}
    period, unit = fsc.get("resolution_nm"), "nm"
    if period is None:
        period, unit = fsc.get("resolution_pixels"), "pixels"
    if period is None:
        return "Resolution", "–", "not measured"
    finest = "≤ " if fsc.get("resolution_pixels", math.inf) <= 2 else ""  # no frequency beyond Nyquist's can be told
    return "Resolution", f"{finest}{short(period)} {unit}", f"even and odd tilts, FSC = {fsc.get('threshold', 0.143):g}"


def _volume_note(record: Record, binned: int) -> str:
    words = "Density per pixel of path, in units of the fit." if record.config.method not in CLASSICAL else ""
    if binned > 1:
        words += f" Shown binned by {binned}; the file holds every voxel."
    return words.strip()


def _images_note(record: Record, images: Mapping[str, Any] | None) -> str:
    if images is None:
        return ""
    words = (
        "Tilts are in order of angle and numbered from 1, as in the file. Residuals should look like noise: where the "
    )
    words += "specimen shows, the volume does not explain the images."
    return words + (f" Images are shown binned by {images['bin']}." if images["bin"] > 1 else "")


def _fit_note(record: Record) -> str:
    metrics = record.metrics
    ends = {"finished": "went through its whole schedule", "converged": "ended when held-out pixels got no better"}
    ended = ends.get(metrics.get("outcome", ""), f"ended {metrics.get('outcome', '')}")
    chosen = "as given" if record.config.tv_weight is not None else "chosen by held-out pixels"
    weight = f" The weight of the total variation is {short(metrics.get('tv_weight'))}, {chosen}."
    return f"The fit {ended}, after {metrics.get('steps', '–')} steps.{weight}"


def _noise_note(record: Record) -> str:
    noise, residuals = record.metrics.get("noise", {}), record.metrics.get("residuals", {})
    if not residuals:
        return f"Model {noise_name(record)}. Too few pixels were held out to judge it by."
    words = f"Model {noise_name(record)}, held against {residuals['pixels']} pixels that the fit has not seen."
    scan = noise.get("scan_axis")
    return words + (f" Noise correlates along {scan}, the scan." if scan else "")


def _evaluation(record: Record) -> list[str]:
    """Return what the evaluation says in words."""
    lines = []
    fsc, whiteness = record.evaluation.get("fsc") or {}, record.evaluation.get("whiteness") or {}
    if fsc:
        lines.append(
            "Volumes made from the even and from the odd tilts agree up to the frequency that is marked. They share "
            "no image, but the prior: what no tilt has measured agrees by it alone."
        )
    if fsc.get("beyond_measured"):
        lines.append("The mark lies beyond the frequencies that the tilts have measured: take the figure as a bound.")
    if whiteness.get("words"):
        lines.append(str(whiteness["words"]))
    if record.uncertainty is not None:
        lines.append("The uncertainty of each voxel is shown with the sections above.")
    return lines


def _missing(record: Record) -> str:
    """Return what is not there, and can be added."""
    there = record.evaluation
    parts = [name for name, key in (("the FSC of even and odd tilts", "fsc"), ("held-out tilts", "heldout_per_tilt"),
                                    ("the whiteness of residuals", "whiteness")) if not there.get(key)]  # fmt: skip
    if record.uncertainty is None:
        parts.append("an uncertainty for each voxel")
    if not parts:
        return ""
    listed = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    return f"{listed[0].upper()}{listed[1:]} {'is' if len(parts) == 1 else 'are'} added by"


def _done(record: Record) -> str:
    changed = [s["name"] for s in _settings(record.config) if s["changed"]]
    source = f"Made from {record.source}." if record.source else ""
    words = (
        f" {len(changed)} setting{'s' if len(changed) != 1 else ''} in bold differ from the default." if changed else ""
    )
    return f"{source}{words} To repeat: `tiltfield reconstruct --config {record.folder / 'config.yaml'} --out DIR`"


def _settings(config: ReconstructConfig) -> list[dict[str, Any]]:
    """Return every setting, those first that are not the default."""
    rows: list[dict[str, Any]] = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        shown = ("yes" if value else "no") if isinstance(value, bool) else str(value)
        changed = value != field.default and name not in ("threads", "device", "mode")  # found out, as a rule
        rows.append(
            {
                "name": name,
                "value": "–" if shown in UNSET else shown,
                "changed": changed,
                "about": field.description or "",
            }
        )
    return sorted(rows, key=lambda row: not row["changed"])
