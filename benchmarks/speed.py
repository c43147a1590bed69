"""How fast the fit is: field points a second, where the time goes, and how near the machine's limits that is.

Every figure is measured in a process of its own, on simulated cells of 61 tilts. Training is that of the default
method, for some seconds; the parts of a step are timed inside real steps. ``--whole`` runs the whole program, as a user
does, and says when its PSNR was first within 0.1 dB of its best. WBP and SIRT are ours and ASTRA's ::

    python benchmarks/speed.py --sizes 64,96,128,192,256 --whole 64,96,128 --peers 64 --out out/bench
    python benchmarks/speed.py --sizes 64 --source OTHER/src --out out/bench  # another checkout, in turns with this
    python benchmarks/speed.py --sizes 64 --changes --out out/bench           # what each change brought

Absolute times drift with what else the machine does: the load average stands below the tables, and ratios come from
runs in turns. ``OMP_NUM_THREADS`` sets the threads. ``--paste docs/speed.md`` puts the tables between their markers.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench import ROOT
from common import Demand, demand_lines, markdown_table, write_text
from speed_measures import NEAR_DB, SIRT_ITERATIONS, TILTS
from tiltfield.kernels import native

SHORT, LONG = 20, 60  # seconds of the limited runs
TURNS = 3  # of both checkouts
PARTS = {
    "encoding": "encoding",
    "network": "network (MLP)",
    "projector": "projector",
    "variation": "total variation",
    "noise": "noise model",
    "optimiser": "optimiser",
    "rest": "rest",
}

CHANGES = {
    "kernels": "all kernels in C",
    "network": "network in C",
    "tiles": "network by tiles of the processor, against by vectors",
    "density": "density of the network's output in C",
    "encoding": "interpolation in C",
    "projector": "projector in C, without a matrix",
    "variation": "total variation and its gradient in C",
    "noise": "flow in C",
    "pull": "quasi-likelihood and its slope in C",
    "optimiser": "Adam on planes in C",
    "windows": "tables read and optimised by windows of planes",
    "flow": "flow that learns every fourth step",
    "memory": "freed memory kept",
}

Figures = dict[str, Any]


def measured(name: str, file: Path, *more: str, source: Path | None = None) -> Figures:
    """Return the figures of one measurement, made in a process of its own.

    Args:
        name: of `speed_measures.MEASURES`.
        file: the cell.
        more: arguments.
        source: folder that holds the package, this checkout's if None.

    Raises:
        RuntimeError: if another package was measured.
    """
    source = (source or ROOT / "src").resolve()
    command = [sys.executable, str(Path(__file__).with_name("speed_measures.py")), name, str(file), *more]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    figures = json.loads(done.stdout.splitlines()[-1])
    if not Path(figures["package"]).is_relative_to(source):
        raise RuntimeError(f"expected the package in {source}, got that in {figures['package']}")
    print(f"{name} {file.stem} {' '.join(more)}: {_short(figures)}", file=sys.stderr, flush=True)
    return figures


def _short(figures: Figures) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if isinstance(value, float))


def cell_of(size: int, out: Path) -> Path:
    """Return the file of a cell, made unless it is there."""
    file = out / "cells" / f"{size}.npz"
    file.parent.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        measured("simulate", file, str(size))
    return file


# ---- the sizes -----------------------------------------------------------------------------------------------------


def sizes_of(given: argparse.Namespace) -> dict[int, Figures]:
    """Return all figures of every size."""
    results: dict[int, Figures] = {}
    for size in given.sizes:
        file = cell_of(size, given.out)
        results[size] = measured("classical", file) | measured("training", file)
        if size in given.whole:
            results[size] |= {f"whole_{name}": value for name, value in measured("whole", file).items()}
        if size == given.limited:
            runs = [measured("whole", file, str(seconds))["psnr_db"] for seconds in (SHORT, LONG)]
            results[size]["limited_db"] = runs[0] - runs[1]
    return results


def sizes_table(results: Mapping[int, Figures], speed: Mapping[str, float]) -> str:
    """Return the figures, one row each, as Markdown."""
    flop_limit, copy_limit = speed["matmul_gflops"] * 1e9, speed["copy_gb_s"] * 1e9
    rows: dict[str, Callable[[Figures], str]] = {
        "million field points a second": lambda f: f"{f['points_per_second'] / 1e6:.2f}",
        "the same, quickest group of steps": lambda f: f"{f['quickest_points_per_second'] / 1e6:.2f}",
        "processor time a point, µs": lambda f: f"{f['processor_us']:.2f}",
        "a pass, s": lambda f: f"{f['pass_seconds']:.2f}",
        **{f"share of {title}": lambda f, part=part: f"{f['shares'][part]:.1%}" for part, title in PARTS.items()},
        "products of the network a point, FLOP": lambda f: f"{f['flop']:.0f}",
        "of the speed of products": lambda f: f"{f['points_per_second'] * f['flop'] / flop_limit:.0%}",
        "least traffic a point, bytes": lambda f: f"{f['bytes']:.0f}",
        "of the speed of copies": lambda f: f"{f['points_per_second'] * f['bytes'] / copy_limit:.0%}",
        "peak memory of training, GB": lambda f: f"{f['memory_gb']:.2f}",
        "whole run, s": lambda f: f"{f['whole_seconds']:.1f}",
        f"whole run, s to within {NEAR_DB} dB": lambda f: f"{f['whole_near_seconds']:.1f}",
        "whole run, PSNR, dB": lambda f: f"{f['whole_psnr_db']:.2f}",
        "whole run, PSNR inside, dB": lambda f: f"{f['whole_inside_db']:.2f}",
        "whole run, peak memory, GB": lambda f: f"{f['whole_memory_gb']:.2f}",
        "WBP, s": lambda f: f"{f['wbp_seconds']:.2f}",
        "WBP of ASTRA, s": lambda f: f"{f['astra_wbp_seconds']:.2f}",
        f"SIRT, {SIRT_ITERATIONS} iterations, s": lambda f: f"{f['sirt_seconds']:.2f}",
        f"SIRT of ASTRA, {SIRT_ITERATIONS} iterations, s": lambda f: f"{f['astra_sirt_seconds']:.2f}",
    }
    table = [[title, *(_or_dash(cell, found) for found in results.values())] for title, cell in rows.items()]
    return markdown_table(["", *(f"{size}³" for size in results)], table)


def _or_dash(cell: Callable[[Figures], str], found: Figures) -> str:
    try:
        return cell(found)
    except KeyError:  # not measured
        return "–"


def demands(results: Mapping[int, Figures]) -> list[Demand]:
    """Return what is asked on two cores, with its figures."""
    rates = {size: found["points_per_second"] / 1e6 for size, found in results.items()}
    asked = [Demand(f"{size}³, field points a second", rate, 3.0, unit="million") for size, rate in rates.items()]
    if 96 in results:
        lost = results[96].get("limited_db")
        asked.append(Demand(f"96³, PSNR of a run of {SHORT} s less that of one of {LONG} s", lost, -0.1))
    for size, seconds in ((128, 60.0), (256, 600.0)):
        if size in results:
            spent = results[size].get("whole_seconds")
            asked.append(Demand(f"{size}³, whole run", spent, seconds, at_least=False, unit="s"))
    if 256 in results:
        memory = results[256].get("whole_memory_gb", results[256]["memory_gb"])
        asked.append(Demand("256³, peak memory", memory, 4.0, at_least=False, unit="GB"))
    if {64, 256} <= set(results):
        asked.append(Demand("voxel time 256 over 64", rates[64] / rates[256], 1.3, at_least=False, unit=""))
    return asked


# ---- before and after ----------------------------------------------------------------------------------------------


def pairs_table(given: argparse.Namespace) -> str:
    """Return figures of another checkout and of this one, measured in turns, as Markdown."""
    rows = []
    for size in given.sizes:
        file = cell_of(size, given.out)
        turns = [(measured("pace", file, source=given.source), measured("pace", file)) for _ in range(TURNS)]
        names = {"processor_us": "processor time a point, µs", "pass_seconds": "a pass, s"}
        rows += [[f"{size}³", title, *_paired(name, turns)] for name, title in names.items()]
        if size in given.whole:
            runs = [(measured("whole", file, source=given.source), measured("whole", file))]
            names = {"processor_seconds": "whole run, processor s", "seconds": "whole run, s"}
            rows += [[f"{size}³", title, *_paired(name, runs)] for name, title in names.items()]
            rows.append([f"{size}³", "whole run, PSNR, dB", *(f"{found['psnr_db']:.2f}" for found in runs[0]), "–"])
    return markdown_table(["size", "figure", "other", "this", "other / this"], rows)


def changes_table(given: argparse.Namespace) -> str:
    """Return the processor time a point with each change undone and as it is, in turns, as Markdown."""
    rows = []
    possible = {name: title for name, title in CHANGES.items() if name != "tiles" or native.tiles()}
    for size in given.sizes:
        file = cell_of(size, given.out)
        for name, title in possible.items():
            turns = [(measured("pace", file, name), measured("pace", file)) for _ in range(TURNS)]
            rows.append([f"{size}³", title, *_paired("processor_us", turns)])
    return markdown_table(["size", "change", "without, µs", "with, µs", "without / with"], rows)


def _paired(name: str, turns: Sequence[tuple[Figures, Figures]]) -> list[str]:
    """Return the medians of a figure and of its ratio, with the spread of the ratio over the turns."""
    before, after = (statistics.median(turn[k][name] for turn in turns) for k in range(2))
    ratios = sorted(turn[0][name] / turn[1][name] for turn in turns)
    spread = f" ({ratios[0]:.2f} to {ratios[-1]:.2f})" if len(ratios) > 1 else ""
    return [f"{before:.3g}", f"{after:.3g}", f"{statistics.median(ratios):.2f}{spread}"]


# ---- what is written -----------------------------------------------------------------------------------------------


def paste(page: Path, parts: Mapping[str, str]) -> None:
    """Put texts between their markers in a page, ``<!-- speed: NAME -->`` and ``<!-- speed: end -->``."""
    text = page.read_text(encoding="utf-8")
    for name, part in parts.items():
        marked = re.compile(rf"(<!-- speed: {name} -->\n).*?(<!-- speed: end -->)", re.DOTALL)
        text, count = marked.subn(lambda m, part=part: f"{m[1]}\n{part}\n\n{m[2]}", text)
        if count != 1:
            raise SystemExit(f"{page}: expected one <!-- speed: {name} --> with its end, got {count}")
    write_text(page, text)


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",") if size]


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=_sizes, default=[64, 96, 128], help="edges of the cells, voxels")
    parser.add_argument("--whole", type=_sizes, default=[], help="sizes of which the whole program is run")
    parser.add_argument("--limited", type=int, help=f"size of which runs of {SHORT} s and of {LONG} s are compared")
    parser.add_argument("--peers", type=int, help="size at which peers are run; one of --sizes and --whole")
    parser.add_argument("--peer-seconds", type=float, default=300, help="limit of a peer's installation, and its run")
    parser.add_argument("--source", type=Path, help="another folder that holds the package: compare with it, alone")
    parser.add_argument("--changes", action="store_true", help="undo each change that made steps faster, alone")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables, cells, and peers' environments")
    parser.add_argument("--paste", type=Path, help="page that takes the tables, as well")
    given = parser.parse_args()
    if given.peers and given.peers not in set(given.sizes) & set(given.whole):
        parser.error(f"--peers {given.peers} is not among --sizes and --whole, with which peers are compared")
    return given


def report(given: argparse.Namespace) -> dict[str, str]:
    """Measure, and return the tables by the names of their markers."""
    if given.source:
        return {"pairs": pairs_table(given)}
    if given.changes:
        return {"changes": changes_table(given)}
    from speed_peers import peers_table

    results = sizes_of(given)
    speed = measured("machine", given.out / "cells" / "machine")
    write_text(given.out / "speed.json", json.dumps({"machine": speed, "sizes": results}, indent=1))
    told = f"Copies {speed['copy_gb_s']:.1f} GB/s, products {speed['matmul_gflops']:.0f} GFLOP/s"
    threads = results[given.sizes[0]]["threads"]
    told += f", {threads} thread{'s' * (threads > 1)}, tilts {TILTS}."
    parts = {"sizes": f"{sizes_table(results, speed)}\n\n{told}", "asked": demand_lines(demands(results))}
    if given.peers:
        found = results[given.peers]
        ours = {name.removeprefix("whole_"): value for name, value in found.items() if name.startswith("whole_")}
        ours |= {name: value for name, value in found.items() if name.startswith(("wbp_", "sirt_"))}
        parts["peers"] = peers_table(given.peers, given.out, given.peer_seconds, ours)
    return parts


def _ticks() -> tuple[int, int]:
    """Return the processors' time so far that other guests of the host took, and all that was asked for."""
    file = Path("/proc/stat")
    if not file.exists():
        return 0, 1
    user, nice, system, _, _, irq, softirq, steal = map(int, file.read_text().split()[1:9])
    return steal, user + nice + system + irq + softirq + steal


def main() -> None:
    """Measure and write the tables."""
    given = arguments()
    given.out.mkdir(parents=True, exist_ok=True)
    before, ticks = os.getloadavg()[0], _ticks()
    parts = report(given)
    stolen, spent = (b - a for a, b in zip(ticks, _ticks(), strict=True))
    command = shlex.join(["python", "benchmarks/speed.py", *sys.argv[1:]])
    load = f"`{command}`; load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end"
    load += f"; other guests of the host took {stolen / spent:.0%} of the time that was asked for." if stolen else "."
    parts = {name: text if name == "asked" else f"{text}\n\n{load}" for name, text in parts.items()}
    text = "\n\n".join(parts.values()) + "\n"
    print(text)
    write_text(given.out / f"{'speed' if 'sizes' in parts else next(iter(parts))}.md", text)
    if given.paste:
        paste(given.paste, parts)


if __name__ == "__main__":
    main()
