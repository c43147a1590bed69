"""How well noise is learned: repeats against known noise, six models on simulated and on measured noise.

Simulated fields show cracks in a film, with noise of three laws, correlated along the scan like that of a slow
detector: Poisson-Gaussian; with exponentially distributed gain, so that tails are long; the same clipped. Models are
fitted to one field and judged by another. Measured noise is that of ../shared/data/repeat_pairs, two frames of each of
two fields: fitted to one, judged by the other, both ways round. Results are kept in DIR/results.jsonl as they come ::

    python benchmarks/noise.py --out DIR --seeds 3
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch

import known_noise
from common import (
    PACKAGE,
    ROOT,
    Demand,
    Figures,
    Store,
    demand_lines,
    markdown_table,
    mean_spread,
    source_hash,
    write_text,
)
from known_noise import DARK, FLOOR, LAWS, SLOPE, field, simulated
from tiltfield.io import load_frames
from tiltfield.judge import CLASS_BINS, NOISE_BINS, compare
from tiltfield.metrics import jensen_shannon
from tiltfield.noise.learn import LEARNABLE, Pairs, learn
from tiltfield.noise.repeats import pairs_from_repeats
from tiltfield.report.noise import save_noise_figure
from tiltfield.run import atomic
from tiltfield.traits import BINS, traits_of

MEASURED = ROOT.parent / "shared" / "data" / "repeat_pairs"
FIELDS = ("test_000", "test_001")
SIMULATED_EDGE, REPEATS_EDGE = 512, 1024
PARTS = ("noise", "judge.py", "traits.py", "metrics.py")
RELATIVE, NATS = 0.01, 0.002  # by which a model may be worse and count as good, in distances and log-likelihood


# ---- what is measured ----------------------------------------------------------------------------------------------


def recovered(edge: int, seed: int, law: str) -> Figures:
    """Estimate the noise of two frames without the clean image, and hold it against the noise that was put in."""
    clean, frames = field(edge, seed, law)
    began = time.perf_counter()
    found = pairs_from_repeats(frames)
    seconds = time.perf_counter() - began
    true, noise = frames - clean, found.pairs.noisy - found.pairs.clean
    known, seen = traits_of(np.broadcast_to(clean, frames.shape), true), traits_of(found.pairs.clean, noise)
    line = SLOPE * (np.array(seen.intensity) - DARK) + FLOOR
    edges = np.linspace(*np.quantile(true, [1e-4, 1 - 1e-4]), 101)
    error = found.pairs.clean - clean
    return {
        "seconds": seconds,
        "denoiser": found.denoiser,
        "error_share": found.error_share,
        "true_error_share": float(np.mean(error**2) / true.var()),
        "own_noise": float(np.corrcoef(error.ravel(), true.ravel())[0, 1]),
        "slope": seen.slope / SLOPE,
        "line": float(np.abs(np.array(seen.variance) / line - 1).max()),
        "lags": [a - b for a, b in zip(seen.along[:2], known.along[:2], strict=True)],
        "skewness": [seen.skewness, known.skewness],
        "jsd": jensen_shannon(*(np.histogram(n, edges)[0] for n in (noise, true))),
    }


def judged(train: Pairs, test: Pairs, picture: Path | None = None) -> Figures:
    """Fit every model to one field and judge it by another."""
    models, seconds = {}, {}
    for name in LEARNABLE:
        began = time.perf_counter()
        models[name] = learn(name, train)
        seconds[name] = time.perf_counter() - began
    comparison = compare(models, test)
    if picture is not None:
        with atomic(picture) as part:
            save_noise_figure(part, comparison, models, test)
    return comparison.figures() | {"seconds": seconds}


def measured(train: str, test: str, picture: Path) -> Figures:
    """Fit to the repeats of one measured field, judge by those of another; the pairs are timed, too."""
    found, seconds = [], []
    for name in (train, test):
        frames = load_frames(MEASURED / f"{name}.mrc").images
        began = time.perf_counter()
        found.append(pairs_from_repeats(frames).pairs)
        seconds.append(time.perf_counter() - began)
    return judged(*found, picture) | {"repeats_seconds": max(seconds)}


# ---- tables --------------------------------------------------------------------------------------------------------

COLUMNS: Mapping[str, tuple[int, Callable[[Figures], float]]] = {
    "JSD ×10³": (3, lambda v: 1000 * v["distances"]["jsd"]),
    "BC": (4, lambda v: v["distances"]["bc"]),
    "distance ×10³": (3, lambda v: 1000 * v["distances"]["bd"]),
    "JSD ×10³, by intensity": (3, lambda v: 1000 * v["distances"]["jsd_binned"]),
    "BC, by intensity": (4, lambda v: v["distances"]["bc_binned"]),
    "distance ×10³, by intensity": (3, lambda v: 1000 * v["distances"]["bd_binned"]),
    "log-likelihood": (4, lambda v: _finite(v["log_likelihood"])),
    "PIT gap": (4, lambda v: v["pit_gap"]),
    "whitened lag 1": (3, lambda v: v["whitened_along"][0]),
    "lag 1": (3, lambda v: v["traits"]["along"][0]),
    "lag 2": (3, lambda v: v["traits"]["along"][1]),
    "slope": (3, lambda v: v["slope_ratio"]),
}


def _finite(value: float | None) -> float:
    return -math.inf if value is None else value  # JSON has no infinity


def model_table(results: list[Figures]) -> str:
    """Return a Markdown table of models, means and spreads over results, with the floor and the real noise."""
    rows = []
    for k, name in enumerate(LEARNABLE):
        verdicts = [r["verdicts"][k] for r in results]
        cells = [_cell([read(v) for v in verdicts], digits) for digits, read in COLUMNS.values()]
        rows.append([name, *cells, mean_spread([r["seconds"][name] for r in results], 0)])
    floor = [{"distances": r["floor"]} for r in results]
    cells = [_cell([read(f) for f in floor], digits) for digits, read in list(COLUMNS.values())[:6]]
    rows.append(["floor (even against odd rows)", *cells, *[""] * 7])
    lags = [_cell([r["real"]["along"][k] for r in results], 3) for k in (0, 1)]
    rows.append(["real noise", *[""] * 9, *lags, "1.000", ""])
    return markdown_table(["model", *COLUMNS, "fit, s"], rows)


def _cell(values: list[float], digits: int) -> str:
    return mean_spread(values, digits) if all(map(math.isfinite, values)) else "-∞"


def repeats_table(results: Mapping[str, list[Figures]]) -> str:
    """Return a Markdown table of how the noise of repeats compares with the noise put in."""
    header = ["law", "slope", "variance line, worst class", "lag 1", "lag 2", "skewness (true)", "JSD ×10³",
              "error share (true)", "own noise in it", "seconds"]  # fmt: skip
    rows = []
    for law, found in results.items():
        means = {key: np.mean([f[key] for f in found], axis=0) for key in found[0] if key != "denoiser"}
        skew, share = means["skewness"], (means["error_share"], means["true_error_share"])
        rows.append([
            law,
            mean_spread([f["slope"] for f in found], 3),
            f"{100 * means['line']:.1f} %",
            *(mean_spread([f["lags"][k] for f in found], 3) for k in (0, 1)),
            f"{skew[0]:.2f} ({skew[1]:.2f})",
            mean_spread([1000 * f["jsd"] for f in found], 3),
            f"{100 * share[0]:.1f} % ({100 * share[1]:.1f} %)",
            f"{means['own_noise']:.3f}",
            f"{means['seconds']:.0f}",
        ])  # fmt: skip
    return markdown_table(header, rows)


# ---- demands -------------------------------------------------------------------------------------------------------


def losses(distances: Mapping[str, float], log_likelihood: float | None = 0.0) -> dict[str, float]:
    """Return columns such that less is better; 0 is perfect for JSD, 1 - BC and distance."""
    found = {name: 1 - value if name.startswith("bc") else value for name, value in distances.items()}
    return found | {"log_likelihood": -_finite(log_likelihood)}


def columns_lost(figures: Figures, better: str, worse: str, *, slack: bool = False) -> int:
    """Return in how many columns of distances and log-likelihood one model is not better than another.

    Args:
        figures: of a comparison.
        better: name of the model that should win.
        worse: name of the other.
        slack: it may lose by what `slacks` allows.
    """
    by_name = {v["name"]: losses(v["distances"], v["log_likelihood"]) for v in figures["verdicts"]}
    first, second = by_name[better], by_name[worse]
    most = slacks(figures["floor"], second) if slack else dict.fromkeys(second, 0.0)
    return sum(not first[column] - second[column] < most[column] for column in second)


def slacks(floor: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Return by how much a model may lose to another and still be as good: 0.002 nats, or 1 % and chance.

    Chance keeps a right model a quarter of the floor away (two halves there, all rows and a law here). From field to
    field that quarter scatters like χ² of K bins, by √(2 / (K - 1)) of itself; a mean of 16 classes by a fourth of it.
    """
    scatter = {False: math.sqrt(2 / (NOISE_BINS + 1)), True: math.sqrt(2 / (CLASS_BINS + 1) / BINS)}
    chance = {name: value / 4 * scatter[name.endswith("_binned")] for name, value in losses(floor).items()}
    return {name: RELATIVE * other[name] + chance[name] for name in floor} | {"log_likelihood": NATS}


def model_demands(results: Mapping[str, Figures], *, scan: bool) -> Iterable[Demand]:
    """Yield what is asked of the models, the worst of all results.

    Args:
        results: title to figures.
        scan: ask for the figures of scan-flow too.
    """

    def worst(figure: Callable[[Figures], float]) -> float:
        return max(figure(f) for f in results.values())

    def asked(name: str, figure: Callable[[Figures], float], limit: float, unit: str) -> Demand:
        return Demand(name, worst(figure), limit, at_least=False, unit=unit)

    lost = "columns in which flow is no better than"
    yield asked(f"{lost} gaussian", lambda f: columns_lost(f, "flow", "gaussian"), 0, "")
    yield asked(f"{lost} poisson", lambda f: columns_lost(f, "flow", "poisson"), 0, "")
    lost = "columns in which flow is worse than flow-paper by more than 1 % and chance, or 0.002 nats"
    yield asked(lost, lambda f: columns_lost(f, "flow", "flow-paper", slack=True), 0, "")
    if not scan:
        return

    def of(figures: Figures) -> Figures:
        return next(v for v in figures["verdicts"] if v["name"] == "scan-flow")

    def lag(figures: Figures, k: int) -> float:
        return 100 * abs(of(figures)["traits"]["along"][k] - figures["real"]["along"][k])

    yield asked("scan-flow: lag 1 of samples against the real one, ×100", lambda f: lag(f, 0), 5, "")
    yield asked("scan-flow: lag 2 of samples against the real one, ×100", lambda f: lag(f, 1), 5, "")
    yield asked(
        "scan-flow: slope of variance against intensity, off by", lambda f: 100 * abs(of(f)["slope_ratio"] - 1), 5, "%"
    )
    yield asked("scan-flow: lag 1 of whitened residuals, ×100", lambda f: 100 * abs(of(f)["whitened_along"][0]), 5, "")
    yield asked("scan-flow: PIT gap, ×100", lambda f: 100 * of(f)["pit_gap"], 2, "")
    yield asked("slowest, frames to model", lambda f: f["repeats_seconds"] + max(f["seconds"].values()), 60, "s")


def repeats_demands(results: Mapping[str, list[Figures]]) -> Iterable[Demand]:
    """Yield what is asked of the noise of repeats, the worst of all seeds and laws."""
    found = [f for figures in results.values() for f in figures]
    yield Demand("slope, off by", 100 * max(abs(f["slope"] - 1) for f in found), 5, at_least=False, unit="%")
    for k in (0, 1):
        gap = 100 * max(abs(f["lags"][k]) for f in found)
        yield Demand(f"lag {k + 1}, off by, ×100", gap, 3, at_least=False, unit="")


# ---- run -----------------------------------------------------------------------------------------------------------


class Bench:
    """Runs what has not been run yet.

    Args:
        out: folder of results and pictures.
        seeds: how many.
        edge: of simulated fields, or None for the usual ones.
    """

    def __init__(self, out: Path, seeds: int, edge: int | None) -> None:
        self.store, self.out, self.seeds = Store(out), out, seeds
        self.edges = (edge or REPEATS_EDGE, edge or SIMULATED_EDGE)
        self.code = source_hash(
            *(PACKAGE / part for part in PARTS), Path(__file__).resolve(), Path(known_noise.__file__).resolve()
        )

    def once(self, key: Mapping[str, object], work: Callable[[], Figures]) -> Figures:
        """Return the figures of a key, worked out if they are not there."""
        return self.store.once({**key, "code": self.code}, lambda: (work(), np.zeros(0)))

    def repeats(self) -> dict[str, list[Figures]]:
        """Return what repeats tell of noise that is known; noise that is clipped they leave as it is."""
        edge = self.edges[0]
        return {
            law: [
                self.once({"repeats": law, "seed": s, "edge": edge}, lambda law=law, s=s: recovered(edge, s, law))
                for s in range(self.seeds)
            ]
            for law in LAWS[:2]
        }

    def simulated(self) -> dict[str, list[Figures]]:
        """Return the comparisons on known noise."""
        edge = self.edges[1]

        def work(law: str, seed: int) -> Figures:
            picture = self.out / f"simulated-{LAWS.index(law)}.png" if seed == 0 else None
            return judged(simulated(edge, seed, law), simulated(edge, seed + 100, law), picture)

        return {
            law: [
                self.once({"law": law, "seed": s, "edge": edge}, lambda law=law, s=s: work(law, s))
                for s in range(self.seeds)
            ]
            for law in LAWS
        }

    def measured(self) -> dict[str, Figures]:
        """Return the comparisons on measured noise, none where it is absent."""
        if not all((MEASURED / f"{name}.mrc").exists() for name in FIELDS):
            return {}
        return {
            f"fitted to {a}, judged by {b}": self.once(
                {"train": a, "test": b}, lambda a=a, b=b: measured(a, b, self.out / f"measured-{b}.png")
            )
            for a, b in (FIELDS, FIELDS[::-1])
        }


def report(
    repeats: Mapping[str, list[Figures]], known: Mapping[str, list[Figures]], real: Mapping[str, Figures], edges: tuple
) -> str:
    """Return everything as Markdown."""
    parts = [
        f"## Noise of repeats, against the noise put in ({edges[0]}², two frames)",
        repeats_table(repeats),
        demand_lines(repeats_demands(repeats)),
    ]
    for title, figures in real.items():
        parts += [f"## Measured noise: {title}", model_table([figures])]
    if real:
        parts.append(demand_lines(model_demands(real, scan=True)))
    else:
        parts.append(f"## Measured noise: not there ({MEASURED})")
    for law, figures in known.items():
        parts += [f"## Simulated noise: {law} ({edges[1]}², {len(figures)} seeds)", model_table(figures)]
        parts.append(demand_lines(model_demands({str(i): f for i, f in enumerate(figures)}, scan=False)))
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for results, tables and pictures")
    parser.add_argument("--seeds", type=int, default=3, help="simulated fields per law (default: 3)")
    parser.add_argument("--edge", type=int, help=f"of simulated fields (default: {REPEATS_EDGE} and {SIMULATED_EDGE})")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options.out, options.seeds, options.edge)
    text = report(bench.repeats(), bench.simulated(), bench.measured(), bench.edges)
    write_text(options.out / "noise.md", text)
    print(text)


if __name__ == "__main__":
    main()
