"""Train the deep Wiener-Kolmogorov denoisers that come with the package, and judge them.

Images are of simulated cells whose seeds no test and no benchmark uses; noise is drawn anew at every step, signal over
noise variance from 0.2 to 5, half of the series clipped to the range of the clean images. Writes dwk-gaussian.npz,
dwk-poisson.npz and dwk.json; the weights for Poisson noise go on from those for Gaussian noise, after stabilising ::

    python benchmarks/train_dwk.py --out src/tiltfield/denoise
    python benchmarks/train_dwk.py --judge --noise-file FILE      # a table; FILE by `tiltfield noise fit`
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle
from torch import Tensor
from torch.nn import functional

from tiltfield.config import SimulateConfig
from tiltfield.denoise.stabilise import deviation, stabiliser
from tiltfield.denoise.wiener import (
    DeepWiener,
    WienerNoise,
    denoise_stack,
    load_deep_wiener,
    normalised,
    save_deep_wiener,
    weights_path,
)
from tiltfield.simulate import NoiseLaw, simulate

CPU = torch.device("cpu")
NOISES: tuple[WienerNoise, ...] = ("gaussian", "poisson")
SEEDS, VALIDATION_SEEDS = (1000, 4), (2000, 2)  # the first, and cells of each size, recipe and contrast
SIZES, CELLS, MODES = (64, 96, 128), ("paper", "simple"), ("bf", "haadf")
SOME_TILTS = "-60:60:15"
SNRS, CLIPPED = (0.2, 5.0), 0.5
VALIDATION_SNRS = (0.2, 0.7, 2.0, 5.0)
CROP, MARGIN, PER_SERIES, SERIES, IMAGES = 64, 8, 2, 3, 3
RATE, KERNEL_RATE = 3e-3, 1e-2
STEPS = (1600, 1000)
WIDTHS = (0.5, 0.7, 0.9, 1.1, 1.4, 1.7, 2.0, 2.5, 3.0, 4.0)  # of the Gaussian filters, pixels
MEANS_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.4)  # of non-local means, in deviations of the noise
VARIATION_STRENGTHS = (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # of total variation, likewise
SLACK = 0.01  # of the noise variance: added to squared errors before their logarithm is taken


# ---- images --------------------------------------------------------------------------------------------------------


def clean_series(first: int, each: int) -> list[np.ndarray]:
    """Simulated images of cells of consecutive seeds, (tilt, row, col) each, from 0 to 1."""
    made: list[np.ndarray] = []
    for size, cell, mode in list(product(SIZES, CELLS, MODES)) * each:
        seed = first + len(made)
        settings = {"size": size, "cell": cell, "mode": mode, "seed": seed, "tilts": SOME_TILTS, "noise": "none"}
        made.append(simulate(SimulateConfig.parse(settings, "training")).clean)
    return made


def drawn_law(noise: WienerNoise, clean: np.ndarray, snr: float, rng: np.random.Generator) -> NoiseLaw:
    """A law whose mean variance is that of the image nearest the middle over `snr`; shot noise 50 to 100 % of it."""
    image = clean[len(clean) // 2].astype(np.float64)
    variance = float(image.var()) / snr
    if noise == "gaussian":
        return NoiseLaw(0.0, variance)
    share, dark = rng.uniform(0.5, 1), -0.3 * rng.uniform() ** 2
    return NoiseLaw(share * variance / (float(image.mean()) - dark), (1 - share) * variance, dark)


def noisy_series(clean: np.ndarray, law: NoiseLaw, rng: np.random.Generator, *, clip: bool) -> np.ndarray:
    noisy = law.draw(clean, rng)
    return noisy.clip(clean.min(), clean.max()) if clip else noisy


# ---- training ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crops:
    """What the model is given, and how to get from its answer to an error in units of the noise."""

    inputs: Tensor
    log_snr: Tensor
    errors: Callable[[Tensor], Tensor]

    def loss(self, model: DeepWiener) -> Tensor:
        """Mean logarithm of the squared error, so that strong noise and weak count the same."""
        padded = functional.pad(self.inputs, (MARGIN,) * 4, mode="reflect")
        answer = model(padded, self.log_snr)[..., MARGIN:-MARGIN, MARGIN:-MARGIN]
        return (self.errors(answer).square().mean((-3, -2, -1)) + SLACK).log().mean()


def drawn_crops(series: list[np.ndarray], noise: WienerNoise, rng: np.random.Generator) -> Crops:
    """Crops of a few noisy images of one series, normalised as `deep_wiener` does it."""
    clean = series[rng.integers(len(series))]
    clean = clean[np.sort(rng.choice(len(clean), IMAGES, replace=False))]
    if rng.uniform() < 0.3:
        clean = 1 - clean
    law = drawn_law(noise, clean, math.exp(rng.uniform(*np.log(SNRS))), rng)
    noisy = noisy_series(clean, law, rng, clip=rng.uniform() < CLIPPED)
    spread = math.sqrt(law.floor + law.slope * (float(clean.mean()) - law.dark))
    values, back = torch.from_numpy(noisy), lambda stable: stable
    if noise == "poisson":
        transform, low, high = stabiliser(noisy)
        values = transform.forward((values - low) / (high - low))
        back = lambda stable: low + (high - low) * transform.back(stable)  # noqa: E731
    inputs, log_snr, unit = normalised(values[:, None], deviation(values.numpy()))
    places = list(_places(clean.shape, rng))
    which = torch.tensor([i for i, _ in places])
    cut = [(inputs[i][cut], torch.from_numpy(clean[i])[None][cut]) for i, cut in places]
    turns = [(int(rng.integers(4)), bool(rng.integers(2))) for _ in places]
    given, wanted = (torch.stack([_turned(c[k], *t) for c, t in zip(cut, turns, strict=True)]) for k in (0, 1))
    return Crops(given, log_snr[which], lambda answer: (back(answer * unit[which]) - wanted) / spread)


def _places(shape: tuple[int, ...], rng: np.random.Generator) -> Iterator[tuple[int, tuple[slice, ...]]]:
    for _ in range(PER_SERIES):
        row, col = (int(rng.integers(edge - CROP + 1)) for edge in shape[1:])
        yield int(rng.integers(shape[0])), (slice(None), slice(row, row + CROP), slice(col, col + CROP))


def _turned(image: Tensor, quarters: int, mirrored: bool) -> Tensor:
    image = image.flip(-1) if mirrored else image
    return torch.rot90(image, quarters, (-2, -1))


def train(
    model: DeepWiener, noise: WienerNoise, series: list[np.ndarray], steps: int, seed: int, report: int = 100
) -> DeepWiener:
    """Train a model for a kind of noise; a one-cycle schedule of Adam."""
    rng = np.random.default_rng([seed, NOISES.index(noise)])
    model.requires_grad_(True).network.to(memory_format=torch.channels_last)
    quick = [model.raw_kernels, model.level, model.fall]
    groups = [{"params": list(model.network.parameters())}, {"params": quick}]
    adam = torch.optim.Adam(groups, RATE)
    plan = torch.optim.lr_scheduler.OneCycleLR(adam, [RATE, KERNEL_RATE], steps, pct_start=0.1)
    seen: list[float] = []
    for step in range(1, steps + 1):
        loss = torch.stack([drawn_crops(series, noise, rng).loss(model) for _ in range(SERIES)]).mean()
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        plan.step()
        seen.append(loss.item())
        if step % report == 0:
            print(f"{noise} {step}: log error {np.mean(seen[-report:]):.3f}", flush=True)
    return model.eval().requires_grad_(False)


# ---- figures -------------------------------------------------------------------------------------------------------


def psnr(images: np.ndarray, clean: np.ndarray) -> float:
    """Peak signal-to-noise ratio, dB; the peak is the range of the clean images."""
    error = float(np.mean((images - clean) ** 2, dtype=np.float64))
    return 20 * math.log10(float(np.ptp(clean))) - 10 * math.log10(error)


def best_gaussian(noisy: np.ndarray, clean: np.ndarray) -> float:
    """PSNR of the Gaussian filter whose width suits these images best."""
    return max(psnr(gaussian_filter(noisy, (0, w, w), mode="mirror"), clean) for w in WIDTHS)


def validate(model: DeepWiener, noise: WienerNoise) -> dict[str, dict[str, float]]:
    """PSNR by signal over noise variance: noisy, best Gaussian filter, restored; means over unseen cells."""
    series, found = clean_series(*VALIDATION_SEEDS), {}
    for snr in VALIDATION_SNRS:
        rng, rows = np.random.default_rng(int(10 * snr)), []
        for clean in series:
            noisy = noisy_series(clean, drawn_law(noise, clean, snr, rng), rng, clip=False)
            restored = denoise_stack(noisy, model, noise, CPU)
            rows.append([psnr(noisy, clean), best_gaussian(noisy, clean), psnr(restored, clean)])
        means, names = np.mean(rows, axis=0).round(2).tolist(), ("noisy", "gaussian_filter", "restored")
        found[f"{snr:g}"] = dict(zip(names, means, strict=True))
        print(noise, "SNR", snr, found[f"{snr:g}"], flush=True)
    return found


def best_others(noisy: np.ndarray, clean: np.ndarray) -> dict[str, float]:
    """PSNR of other denoisers, each with the strength that suits these images best."""
    sigma = deviation(noisy)

    def means(strength: float) -> np.ndarray:
        settings = {"patch_size": 5, "patch_distance": 9, "h": strength * sigma, "sigma": sigma, "fast_mode": True}
        return np.stack([denoise_nl_means(image, **settings) for image in noisy])

    def variation(strength: float) -> np.ndarray:
        return np.stack([denoise_tv_chambolle(image, weight=strength * sigma) for image in noisy])

    return {
        "Gaussian filter": best_gaussian(noisy, clean),
        "non-local means": max(psnr(means(s), clean) for s in MEANS_STRENGTHS),
        "total variation": max(psnr(variation(s), clean) for s in VARIATION_STRENGTHS),
    }


def judge(noise_file: Path | None, seeds: int) -> str:
    """A table of denoisers over paper cells with the noise of a file, or shot noise of SNR 0.7, clipped."""
    noise, rows = ("poisson-gaussian" if noise_file is None else str(noise_file)), []
    for seed in range(seeds):
        sim = simulate(SimulateConfig(size=96, cell="paper", tilts="-50:49:1.5", noise=noise, clip=True, seed=seed))
        low, high = float(sim.clean.min()), float(sim.clean.max())
        clean, noisy = ((images - low) / (high - low) for images in (sim.clean, sim.noisy))
        found = {"noisy": psnr(noisy, clean), **best_others(noisy, clean)}
        for kind, title in zip(NOISES, ("DWK-G", "DWK-P"), strict=True):
            found[title] = psnr(denoise_stack(noisy, load_deep_wiener(kind), kind, CPU), clean)
        rows.append([str(seed), *(f"{value:.2f}" for value in found.values())])
    table = [["seed", *found], ["---"] * (1 + len(found)), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in table)


# ---- command -------------------------------------------------------------------------------------------------------


def record(out: Path, noise: WienerNoise, model: DeepWiener, facts: dict[str, object]) -> None:
    """Write the weights, and what they were trained with into dwk.json; figures are those of the weights as kept."""
    save_deep_wiener(model, out / weights_path(noise).name)
    path = out / "dwk.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    kept = {name: values.half().float() for name, values in model.state_dict().items()}
    model.load_state_dict(kept)
    known[noise] = {
        **facts,
        "crops_per_step": PER_SERIES * SERIES,
        "crop": CROP,
        "learning_rates": [RATE, KERNEL_RATE],
        "snr": SNRS,
        "clipped_share": CLIPPED,
        "first_cell_seed": SEEDS[0],
        "first_validation_cell_seed": VALIDATION_SEEDS[0],
        "sizes": SIZES,
        "weights": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "torch": str(torch.__version__).split("+")[0],
        "validation_psnr_db": validate(model, noise),
    }
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=weights_path("gaussian").parent, help="folder of the weights")
    parser.add_argument("--only", choices=NOISES, help="one kind of noise; poisson goes on from OUT/dwk-gaussian.npz")
    parser.add_argument("--steps", type=int, nargs=2, default=STEPS, help="for Gaussian noise, and on from there")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--judge", action="store_true", help="judge the weights of the package, train nothing")
    parser.add_argument("--noise-file", type=Path, help="a fitted noise file to judge by")
    parser.add_argument("--seeds", type=int, default=3, help="cells to judge by")
    args = parser.parse_args()
    if args.judge:
        print(judge(args.noise_file, args.seeds))
        return
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    series, model = clean_series(*SEEDS), DeepWiener()
    for noise, steps in zip(NOISES, args.steps, strict=True):
        if args.only in (None, noise):
            began = time.perf_counter()
            model = train(model, noise, series, steps, args.seed)
            facts = {"steps": steps, "seed": args.seed, "series": len(series)}
            record(args.out, noise, model, facts | {"seconds": round(time.perf_counter() - began)})
        elif noise == "gaussian":
            model = load_deep_wiener(noise, args.out)


if __name__ == "__main__":
    main()
