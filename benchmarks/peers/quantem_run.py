"""Reconstruct a tilt series with quantem's neural field, `TomographyLiteINR`, in its own settings, for a limited time.

Run it with the python that `environment.py quantem` makes; of tiltfield it imports nothing ::

    .venv-quantem/bin/python benchmarks/peers/quantem_run.py in.npz out.npz --seconds 300

Input: `sinogram` (tilt, row, col), line integrals of density over pixels, and `angles_deg` (tilt,). Output: `volumes`
(1, z, y, x) float32, `seconds` of training (1,), and `iterations` (1,), passes over all pixels, the last one cut off by
the limit. Everything is quantem's default (HSiren, 3 hidden layers of 256, Adam 1e-4, 1024 rays a step, as many samples
a ray as the longest side, 10 iterations, learned poses), but that pixels are loaded in this process.

Conventions. quantem's tilt axis lies along its columns, and a point is (x, y, z) = (column, row, depth): a ray at row v
and depth s passes y = v cos φ - s sin φ, z = v sin φ + s cos φ. So its images are ours with rows and columns exchanged,
φ = θ, and its (x, y, z) are our (y, x, z). `obj_view` is (1, x, z, y), ours (y, z, x). `--self-check` holds this
against a Gaussian blob's closed-form projection.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

ITERATIONS = 10


class TimeUpError(Exception):
    """The time is up."""


def begin(images: np.ndarray, angles_deg: np.ndarray) -> Any:
    """Return quantem's reconstruction before its first step.

    Args:
        images: line integrals (tilt, row, col), our convention.
        angles_deg: tilts, degrees.
    """
    from quantem.tomography.tomography_lite import TomographyLiteINR

    turned = np.ascontiguousarray(images.transpose(0, 2, 1))
    return TomographyLiteINR.from_dataset(turned, angles_deg, device="cpu", rng=0)


def volume_of(tomography: Any) -> np.ndarray:
    """Return the volume of this moment, (z, y, x)."""
    return np.ascontiguousarray(tomography.obj_model.obj_view[0].transpose(1, 0, 2), np.float32)


def fit(tomography: Any, seconds: float) -> tuple[float, float]:
    """Train, and return the seconds it took and the passes over all pixels.

    Args:
        tomography: changed in place.
        seconds: after which training ends.
    """
    began = time.perf_counter()
    descend, steps = tomography.step_optimizers, 0

    def step() -> None:
        nonlocal steps
        descend()
        steps += 1
        if time.perf_counter() - began > seconds:
            raise TimeUpError

    tomography.step_optimizers = step
    with contextlib.suppress(TimeUpError):
        tomography.reconstruct(num_iter=ITERATIONS, num_workers=0)
    return time.perf_counter() - began, steps / len(tomography.dataloader)


# ---- self-check ----------------------------------------------------------------------------------------------------


class BlobModel(torch.nn.Module):
    """A blob of `mbirtorch_run` as a model of quantem's, points (x, y, z) in [-1, 1]³ to densities."""

    def __init__(self, blob: Any, n: int) -> None:
        super().__init__()
        z, y, x = blob.centre
        self.centre, self.s, self.n = torch.tensor([y, x, z]), blob.s, n

    def forward(self, points: torch.Tensor) -> torch.Tensor:
        """Return densities, shape (n,), of points, shape (n, 3)."""
        return torch.exp(-((points + 1) / 2 * (self.n - 1) - self.centre).square().sum(-1) / (2 * self.s**2))


def self_check() -> bool:
    """Return whether images and volumes are in our convention: sign of the tilt, order of the axes, no pixel lost."""
    from mbirtorch_run import Blob, Check

    blob, n, check = Blob((20.3, 12.6, 17.7), 2.5), 32, Check()
    angles = np.arange(-60, 61, 20, dtype=np.float32)
    images = blob.images(angles, (n, n, n))
    tomography, model = begin(images, angles), BlobModel(blob, n)
    tilt, col, row = (torch.from_numpy(index.reshape(-1)) for index in np.indices((len(angles), n, n)))
    batch = {"projection_idx": tilt, "pixel_i": col, "pixel_j": row, "phi": torch.from_numpy(angles)[tilt]}
    with torch.no_grad():
        seen = model(tomography.dset.get_coords(batch, n, n)).reshape(len(angles), n, n, n).sum(-1)
    check.add("projection", float(np.abs(seen.numpy().transpose(0, 2, 1) - images).max() / images.max()), 0.03)
    tomography.obj_model._model = model
    check.add("volume", float(np.abs(volume_of(tomography) - blob.volume((n, n, n))).max()), 0.01)
    return check.passed()


# ---- command line --------------------------------------------------------------------------------------------------


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", type=Path, nargs="?", help="npz with sinogram and angles_deg")
    parser.add_argument("output", type=Path, nargs="?", help="npz that is written")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="of training at most")
    parser.add_argument("--self-check", action="store_true", help="check the orientation on a known blob, and exit")
    options = parser.parse_args()
    if not options.self_check and options.output is None:
        parser.error("expected an input and an output file, or --self-check")
    return options


def run(options: argparse.Namespace) -> None:
    """Reconstruct the input and write the output."""
    with np.load(options.input) as data:
        tomography = begin(data["sinogram"].astype(np.float32), data["angles_deg"].astype(np.float32))
    seconds, iterations = fit(tomography, options.seconds)
    volumes = volume_of(tomography)[None]
    np.savez(options.output, volumes=volumes, seconds=np.array([seconds]), iterations=np.array([iterations]))


def main() -> None:
    """Run the script."""
    options = arguments()
    if not options.self_check:
        run(options)
    elif not self_check():
        raise SystemExit("the volumes are not in our convention: see the lines marked FAIL")


if __name__ == "__main__":
    main()
