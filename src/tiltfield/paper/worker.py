"""One fit in a process of its own: ``python -m tiltfield.paper.worker FOLDER``.

The folder holds ``request.json``: the folder of the cell, which of its images to see, and the settings. The answer put
there is ``answer.json`` with figures, or with the reason why the input was refused, and ``volume.npy``. Progress goes
to standard output, a line of JSON ``[share done, seconds left]`` each time.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.evaluate import same_box
from tiltfield.jsontext import as_json
from tiltfield.metrics import mse_minmax, psnr_affine, psnr_minmax
from tiltfield.observe import Observer
from tiltfield.paper.cells import array, series_of
from tiltfield.paper.store import Figures
from tiltfield.reconstruct import Reconstruction, peak_memory, reconstruct
from tiltfield.series import Volume
from tiltfield.views import compare_views

REQUEST, ANSWER, VOLUME = "request.json", "answer.json", "volume.npy"
NOTED = ("device", "steps", "outcome", "tv_weight", "heldout_nll", "thickness_pixels")
_HALF_RANGE = 6e4  # of half precision


class _Teller(Observer):
    """Prints progress for the process that waits."""

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Mapping[str, float]) -> None:
        print(json.dumps([done, seconds_left]), flush=True)


def fit(request: Mapping[str, Any]) -> tuple[Figures, np.ndarray]:
    """Reconstruct and hold the volume against the truth.

    Args:
        request: "cell" (folder), "images" (noisy or clean) and "settings".

    Returns:
        figures, and the volume in the box of the truth.
    """
    kept = Path(request["cell"])
    series, config = series_of(kept, request["images"]), ReconstructConfig.parse(request["settings"], "settings")
    began, began_cpu = time.perf_counter(), time.process_time()
    result = reconstruct(series, config, observer=_Teller())
    cost = {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - began_cpu,
        "peak_memory_bytes": most_memory(),
        **_gpu_memory(result.config.device),
    }
    truth = array(kept, "truth")
    volume = same_box(result.volume, Volume(truth))
    return {**score(volume, truth, array(kept, "inside")), **cost, **_noted(result)}, volume


def score(volume: np.ndarray, truth: np.ndarray, inside: np.ndarray) -> Figures:
    """Return the paper's measures, and those after the best affine fit, under the names of `tiltfield evaluate`.

    Args:
        volume: shape (z, y, x).
        truth: same shape.
        inside: bool, same shape.
    """
    return {
        **compare_views(volume, truth),
        "psnr_minmax_db": psnr_minmax(volume, truth),
        "mse_minmax": mse_minmax(volume, truth),
        "psnr_affine_db": psnr_affine(volume, truth),
        "psnr_inside_db": psnr_affine(volume, truth, inside),
    }


def most_memory() -> int:
    """Return the most memory this program has held, bytes.

    What the system says of a process includes, under Linux, what the one that started it held; so it is asked of the
    program alone where that can be.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return peak_memory()
    told = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    return int(told[0]) * 1024 if told else peak_memory()


def _gpu_memory(device: str) -> Figures:
    if device != "cuda":
        return {}
    import torch

    return {"peak_gpu_bytes": torch.cuda.max_memory_allocated()}


def _noted(result: Reconstruction) -> Figures:
    noise = result.metrics.get("noise", {})
    found = {name: result.metrics[name] for name in NOTED if name in result.metrics}
    return found | ({"noise": Path(noise["model"]).name} if "model" in noise else {})  # of a file its name alone


def main(folder: Path) -> None:
    """Answer the request in a folder.

    Args:
        folder: holds the request, and gets the answer.
    """
    try:
        figures, volume = fit(json.loads((folder / REQUEST).read_text()))
    except InputError as error:
        (folder / ANSWER).write_text(json.dumps({"refused": str(error)}))
        return
    np.save(folder / VOLUME, volume.clip(-_HALF_RANGE, _HALF_RANGE).astype(np.float16))
    (folder / ANSWER).write_text(as_json({"figures": figures}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
