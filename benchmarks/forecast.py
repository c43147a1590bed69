"""What a reconstruction was expected to take, and what it took: peak memory and time, size by size.

Every size is a whole run of ``tiltfield reconstruct`` in a process of its own, with all that it writes, on a simulated
cell; the forecast is the one the run begins with. Times mean something on a quiet machine only. Memory does not need
one, and with ``--short`` not even a whole fit: the peak is that of a few passes ::

    python benchmarks/forecast.py --out DIR                     # memory and time, 64³ to 256³
    python benchmarks/forecast.py --out DIR --short             # memory alone, minutes
    python benchmarks/forecast.py --out DIR --short --sizes 64x256,256x64 --set method=sirt

A size is the edge of a cell, or ROWSxCOLUMNS cut from the middle of the smallest cell that holds them. It ends with 1
if a forecast is off by more than a factor of 1.5.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from tiltfield.apart import apart

FACTOR = 1.5
SHORT_PASSES, SHORT_WEIGHTS = 3, 2
GIB = 2.0**30


# ---- one run, in a process of its own ------------------------------------------------------------------------------


def measure(series: Path, out: Path, settings: dict[str, Any], short: bool) -> dict[str, Any]:
    """Return forecast and measurement of a run."""
    from tiltfield.config import ReconstructConfig
    from tiltfield.io import load
    from tiltfield.observe import Observer
    from tiltfield.paper.worker import most_memory
    from tiltfield.reconstruct import expected
    from tiltfield.run import Request, run

    if short:
        _shorten()
    config = ReconstructConfig.parse(settings, "settings")
    shape = load(series, **config.reading).images.shape
    expecting = time.perf_counter()
    forecast = expected(shape, config)
    began = time.perf_counter()
    result = run(Request(out, series, settings, overwrite=True), Observer())
    return {
        "shape": shape,
        "box": result.volume.data.shape,
        "steps": result.metrics.get("steps"),
        "outcome": result.metrics.get("outcome"),
        "probe_seconds": began - expecting,
        "forecast_bytes": forecast.memory_bytes,
        "bytes": most_memory(),
        "forecast_seconds": forecast.seconds,
        "seconds": time.perf_counter() - began,
    }


def _shorten() -> None:
    """Let a fit be a few passes long."""
    from tiltfield import rehearsal
    from tiltfield.schedule import PASSES

    PASSES.update(dict.fromkeys(PASSES, SHORT_PASSES))
    rehearsal.TRIAL_PASSES = SHORT_PASSES
    rehearsal.STRENGTHS = rehearsal.STRENGTHS[:SHORT_WEIGHTS]


# ---- all sizes -----------------------------------------------------------------------------------------------------


def cell_of(size: str, tilts: str, out: Path) -> Path:
    """Return a simulated series of a size, made if it is not there yet."""
    from tiltfield.config import SimulateConfig
    from tiltfield.io import write_stack
    from tiltfield.simulate import simulate

    rows, columns = (int(n) for n in (size.split("x") * 2)[:2])
    made = out / f"{size}.mrc"
    if not made.exists():
        edge = max(rows, columns)
        series = simulate(SimulateConfig(size=edge, tilts=tilts)).series()
        top, left = (edge - rows) // 2, (edge - columns) // 2
        (out / f"{size}.rawtlt").write_text("".join(f"{angle}\n" for angle in series.angles_deg))
        write_stack(series.images[:, top : top + rows, left : left + columns], made, 1.0)
    return made


def apart_from_this(request: dict[str, Any]) -> dict[str, Any]:
    """Return what :func:`measure` returns of a request, in a process of its own."""
    with apart(Path(__file__).stem, [json.dumps(request)], {"PYTHONPATH": str(Path(__file__).parent)}) as process:
        lines = list(process.lines())
        if process.process.returncode:
            raise SystemExit(f"the run of {request['series']} {process.reason}")
    return json.loads(lines[-1])


def table(results: list[dict[str, Any]], short: bool) -> str:
    """Return forecasts beside measurements."""
    head = ["images", "box z", "memory, GiB", "forecast", "ratio", "time, s", "forecast", "ratio", "outcome"]
    rows = [head, ["---"] * len(head)]
    for r in results:
        time_cells = [f"{r['seconds']:.0f}", f"{r['forecast_seconds']:.0f}", f"{ratio(r, 'seconds'):.2f}"]
        rows.append(
            [
                " × ".join(map(str, r["shape"])),
                str(r["box"][0]),
                f"{r['bytes'] / GIB:.2f}",
                f"{r['forecast_bytes'] / GIB:.2f}",
                f"{ratio(r, 'bytes'):.2f}",
                *(["", "", ""] if short else time_cells),
                str(r["outcome"]),
            ]
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def ratio(result: dict[str, Any], unit: str) -> float:
    """Return forecast over measurement."""
    return result[f"forecast_{unit}"] / result[unit]


def main() -> int:
    """Measure the sizes that are asked for."""
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        request = json.loads(sys.argv[1])
        print(json.dumps(measure(Path(request.pop("series")), Path(request.pop("out")), **request)))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the cells and the last run")
    parser.add_argument("--sizes", default="64,96,128,192,256")
    parser.add_argument("--tilts", default="-60:60:2")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of reconstruct")
    parser.add_argument("--short", action="store_true", help="a few passes: memory alone")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    settings = dict(pair.split("=", 1) for pair in options.set)
    results = []
    for size in options.sizes.split(","):
        series = cell_of(size, options.tilts, options.out)
        request = {"series": str(series), "out": str(options.out / "run"), "settings": settings}
        results.append(apart_from_this({**request, "short": options.short}))
        print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    print(table(results, options.short))
    units = ("bytes",) if options.short else ("bytes", "seconds")
    return int(any(not 1 / FACTOR <= ratio(r, unit) <= FACTOR for r in results for unit in units))


if __name__ == "__main__":
    sys.exit(main())
