"""A run's folder, made by hand; and a browser to look at its report with."""

import hashlib
import json

import numpy as np
import pytest
from chromium import PROGRAM, Chromium
from scipy.ndimage import gaussian_filter

from tiltfield.config import ReconstructConfig
from tiltfield.io import write_stack
from tiltfield.residuals import tilt_figures
from tiltfield.runfolder import RunFolder
from tiltfield.series import TiltSeries, Volume

N, ROWS, COLS, DEPTH = 13, 24, 20, 10


def smooth(shape, seed, width=2.0):
    values = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), width)
    return ((values - values.min()) / np.ptp(values)).astype(np.float32)


def metrics_of(series, rendered):
    noise = {"model": "flow", "scan_axis": None, "correlation": [], "saturated": [False, False]}
    noise |= {"intensity": [0.0, 1100.0], "deviation": [30.0, 30.0]}
    tilts = tilt_figures(series, rendered, (np.array([0.0, 1100.0]), np.array([30.0, 30.0])))
    tilts["heldout_chi2"] = tilts["chi2"]
    density = {"low": -90.0, "high": 90.0, "seen": [0.01] * 41, "model": [0.01] * 41}
    residuals = {
        "pixels": 400,
        "calibration": [0.05] * 20,
        "calibration_gap": 0.01,
        "variance": {k: [100.0, 500.0, 900.0] for k in ("intensity", "seen", "model_intensity", "model")},
        "density": [{"name": name, "intensity": 500.0, **density} for name in ("dark", "middle", "bright")],
        "autocorrelation": {"x": [0.1, 0.0], "y": [0.0, 0.0]},
    }
    head = {"tiltfield": "0.1.0", "interrupted": False, "method": "neural", "mode": "haadf", "outcome": "finished"}
    figures = {"seconds": 83.0, "device": "cpu, 2 threads", "tv_weight": 0.2, "steps": 300, "gain": 1000.0, "offset": 0}
    return head | figures | {"noise": noise, "tilts": tilts, "residuals": residuals, "notes": ["thickness 10 pixels"]}


@pytest.fixture
def made(tmp_path):
    """Return a function that makes the folder of a run; tilt 5 of the series shows something else."""

    def make(name="run", stem="needle", shape=(DEPTH, ROWS, COLS), images=(N, ROWS, COLS), **config):
        folder = tmp_path / name
        rendered = 1000 * smooth(images, 1) + 50
        observed = rendered + np.random.default_rng(2).normal(0, 30, images).astype(np.float32)
        observed[4] = observed[4, ::-1] + 0
        angles = np.linspace(-60, 60, images[0])
        stack = write_stack(observed, tmp_path / f"{stem}.mrc", 2.0)
        stack.with_suffix(".rawtlt").write_text("\n".join(f"{a:.2f}" for a in angles))
        kept = RunFolder(folder)
        kept.begin(stack, ReconstructConfig(**config))
        data = smooth(shape, 3) * np.hanning(shape[0] + 2)[1:-1, None, None].astype(np.float32)
        Volume(data, 2.0).save(folder / "volume.mrc")
        write_stack(rendered, folder / "rendered.mrc", 2.0)
        kept.write_metrics(metrics_of(TiltSeries(observed, angles, 2.0), rendered))
        for k in range(40):
            nll = float(np.exp(-k / 6))
            kept.append_history({"stage": "fit", "step": k, "heldout_nll": nll, "nll": nll, "loss": nll, "tv": 0.1})
        for weight in (0.1, 0.2, 0.4):
            kept.append_history({"stage": "weight", "tv_weight": weight, "heldout_nll": (weight - 0.2) ** 2})
        return folder

    return make


@pytest.fixture
def evaluated():
    """Return a function that puts an evaluation into a run's folder."""

    def add(folder, digest=None):
        found = hashlib.blake2b((folder / "volume.mrc").read_bytes(), digest_size=16).hexdigest()
        frequency = (np.arange(1, 13) / 24).tolist()
        fsc = {"frequency": frequency, "correlation": np.linspace(1, 0, 12).tolist(), "threshold": 0.143}
        fsc |= {"resolution_pixels": 2.4, "resolution_nm": 4.8}
        white = {"words": "Residuals are noise.", "lags": [1, 2], "correlation": {"x": [0.01, 0.0], "y": [0.0, 0.0]}}
        tilts = [{"tilt": 3, "angle_deg": -40.0, "chi2": 1.1}]
        values = {"volume": digest or found, "fsc": fsc, "whiteness": white, "heldout_per_tilt": tilts}
        (folder / "evaluation.json").write_text(json.dumps(values))
        data = Volume.load(folder / "volume.mrc").data
        Volume(0.1 * data + 0.01, 2.0).save(folder / "uncertainty.mrc")

    return add


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """Return a headless browser, or skip the test by name."""
    if PROGRAM is None:
        pytest.skip("needs Chromium, to look at the report as a person does")
    chromium = Chromium(tmp_path_factory.mktemp("chromium"))
    yield chromium
    chromium.close()
