"""The detector: the laws of noise, fitted noise, grey levels."""

import hashlib
import math

import mrcfile
import numpy as np
import pytest
import torch
import yaml

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.io import load
from tiltfield.noise import NoiseFile, save_noise
from tiltfield.noise.gaussian import PoissonGaussian
from tiltfield.noise.scan import Scan
from tiltfield.series import quantum_of
from tiltfield.simulate import NoiseLaw, simulate
from tiltfield.simulate.recording import HEADROOM

SMALL = {"size": 24, "tilts": "-60:60:10"}
LOW, HIGH = 3000.0, 9000.0


@pytest.mark.parametrize("law", [NoiseLaw(0.3, 0.02), NoiseLaw(0.02, 0.0), NoiseLaw(0.0, 0.05)])
def test_noise_has_zero_mean_and_linear_variance(law):
    rng = np.random.default_rng(5)
    count = 200_000
    for clean in (0.0, 0.05, 0.4, 1.0):
        noise = law.draw(np.full(count, clean, np.float32), rng).astype(float) - clean
        variance = law.slope * clean + law.floor
        assert abs(noise.mean()) <= 5 * math.sqrt(variance / count) + 1e-7
        # Poisson's own kurtosis widens the scatter of the sample variance
        scatter = math.sqrt((2 * variance**2 + law.slope**3 * clean) / count)
        assert abs(noise.var() - variance) <= 5 * scatter + 1e-7


@pytest.fixture(scope="module")
def noise_file(tmp_path_factory):
    """Noise of counts: variance 200 (c - 2608), correlated along the rows."""
    model = Scan(PoissonGaussian(200.0, 1e4, 2608.0))
    with torch.no_grad():
        model.partial[0] = math.atanh(0.5)
    return save_noise(tmp_path_factory.mktemp("noise") / "noise.json", NoiseFile(model, LOW, HIGH))


@pytest.fixture(scope="module")
def fitted(noise_file):
    return simulate(SimulateConfig(size=64, tilts="-20:20:5", noise=str(noise_file)))


def test_fitted_noise_comes_in_the_units_of_its_file(fitted):
    plain = simulate(SimulateConfig(size=64, tilts="-20:20:5", noise="none"))
    np.testing.assert_allclose(fitted.clean, LOW + (HIGH - LOW) * plain.clean, rtol=1e-6)
    assert fitted.gain == pytest.approx((HIGH - LOW) * plain.gain)
    assert fitted.offset == pytest.approx(LOW + (HIGH - LOW) * plain.offset)
    assert fitted.noise_law is None


def test_fitted_noise_has_the_law_of_its_file(fitted):
    residual = (fitted.noisy - fitted.clean).astype(np.float64)
    expected = (200 * (fitted.clean - 2608.0) + 1e4).mean()
    assert residual.var() == pytest.approx(expected, rel=0.05)
    assert abs(residual.mean()) < 5 * residual.std() * math.sqrt(3 / residual.size)
    score = residual / np.sqrt(200 * (fitted.clean - 2608.0) + 1e4)
    assert (score[:, :, 1:] * score[:, :, :-1]).mean() == pytest.approx(0.5, abs=0.03)
    assert abs((score[:, 1:] * score[:, :-1]).mean()) < 0.03


def test_fitted_noise_repeats_and_is_recorded(fitted, noise_file, tmp_path):
    again = simulate(fitted.config)
    assert again.noisy.tobytes() == fitted.noisy.tobytes()
    other = simulate(fitted.config.model_copy(update={"seed": 1}))
    assert not np.array_equal(other.noisy - other.clean, fitted.noisy - fitted.clean)
    meta = yaml.safe_load((fitted.save(tmp_path) / "meta.yaml").read_text())
    sha = hashlib.sha256(noise_file.read_bytes()).hexdigest()
    assert meta["noise_file"] == {"name": "noise.json", "sha256": sha}
    assert meta["noise_variance"] is None
    assert SimulateConfig(**meta["settings"]) == fitted.config


def test_fitted_noise_is_clipped_to_the_range_of_the_file(fitted):
    clipped = simulate(fitted.config.model_copy(update={"clip": True}))
    np.testing.assert_array_equal(clipped.noisy, np.clip(fitted.noisy, LOW, HIGH))


@pytest.mark.parametrize(
    ("more", "words"),
    [({"snr": 2.0}, "leave out snr"), ({"scan_correlation": 0.3}, "leave out scan_corr"), ({"scan_axis": "y"}, "scan")],
)
def test_a_noise_file_says_all_about_the_noise(noise_file, more, words):
    with pytest.raises(InputError, match=words):
        SimulateConfig.parse({"noise": str(noise_file), **more}, "settings")


def test_noise_is_a_known_law_or_a_file(tmp_path):
    with pytest.raises(
        InputError, match=r"poisson-gaussian, gaussian, none or a file, got 'gausian'; did you mean 'gaussian'"
    ):
        SimulateConfig.parse({"noise": "gausian"}, "settings")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InputError, match="not a noise model"):
        simulate(SimulateConfig(noise=str(tmp_path / "other.json"), **SMALL))


def test_the_snr_has_a_default_without_a_file():
    explicit, left_out = (simulate(SimulateConfig(**SMALL, **more)) for more in ({"snr": 0.7}, {}))
    np.testing.assert_array_equal(explicit.noisy, left_out.noisy)
    assert explicit.facts["snr"] == left_out.facts["snr"] == 0.7


def test_no_snr_is_recorded_where_none_holds(fitted):
    assert fitted.facts["snr"] is None
    assert simulate(SimulateConfig(**SMALL, noise="none")).facts["snr"] is None


# --- grey levels


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("clip", [False, True])
def test_grey_levels_are_the_rounded_intensities(bits, clip):
    plain = simulate(SimulateConfig(**SMALL, clip=clip))
    sim = simulate(plain.config.model_copy(update={"quantise": bits}))
    assert quantum_of(sim.noisy) == 1
    assert sim.series().quantum == 1
    assert 0 <= sim.noisy.min() < sim.noisy.max() <= 2**bits - 1
    back = sim.levels.low + sim.levels.quantum * sim.noisy.astype(np.float64)
    within = (sim.noisy > 0) & (sim.noisy < 2**bits - 1)
    assert np.abs(back - plain.noisy)[within].max() <= 0.5 * sim.levels.quantum + 1e-6
    np.testing.assert_allclose(sim.levels.low + sim.levels.quantum * sim.clean, plain.clean, atol=1e-6)


def test_clipped_images_span_all_levels():
    sim = simulate(SimulateConfig(**SMALL, clip=True, quantise=8))
    assert (sim.levels.low, sim.levels.quantum) == (0.0, 1 / 255)
    assert sim.noisy.min() == sim.clean.min() == 0
    assert sim.noisy.max() == sim.clean.max() == 255


def test_eight_bits_saturate_beyond_their_headroom_and_sixteen_do_not():
    plain = simulate(SimulateConfig(**SMALL)).noisy
    eight, sixteen = (simulate(SimulateConfig(**SMALL, quantise=bits)) for bits in (8, 16))
    beyond = (plain > 1 + HEADROOM).mean()
    assert beyond > 0.005
    assert (eight.noisy == 255).mean() == pytest.approx(beyond, rel=0.1)
    for end in (sixteen.noisy.min(), sixteen.noisy.max()):
        assert (sixteen.noisy == end).sum() == 1


def test_levels_keep_gain_offset_and_law_true():
    sim = simulate(SimulateConfig(size=64, tilts="-6:6:6", mode="haadf", quantise=16, noise="poisson-gaussian"))
    depth = sim.truth.sum(axis=0) * 7 * 2 / 64
    np.testing.assert_allclose((sim.clean[1] - sim.offset) / sim.gain, depth, rtol=1e-3, atol=1e-3)
    expected = sim.noise_law.slope * (sim.clean - sim.noise_law.dark) + sim.noise_law.floor
    assert ((sim.noisy - sim.clean).astype(np.float64) ** 2).mean() == pytest.approx(expected.mean(), rel=0.05)


@pytest.mark.parametrize("bits", [8, 16])
def test_levels_are_written_as_whole_numbers(bits, tmp_path):
    sim = simulate(SimulateConfig(**SMALL, quantise=bits))
    folder = sim.save(tmp_path)
    with mrcfile.open(folder / "noisy.mrc") as mrc:
        assert mrc.data.dtype == np.uint16
        np.testing.assert_array_equal(mrc.data, sim.noisy)
    loaded = load(folder / "noisy.mrc", angles=folder / "series.rawtlt")
    assert loaded.quantum == 1
    meta = yaml.safe_load((folder / "meta.yaml").read_text())
    assert meta["grey_levels"] == {"bits": bits, "low": sim.levels.low, "quantum": sim.levels.quantum}


def test_scan_and_levels_are_recorded(tmp_path):
    sim = simulate(SimulateConfig(**SMALL, scan_correlation=0.51, scan_axis="y"))
    found = yaml.safe_load((sim.save(tmp_path) / "meta.yaml").read_text())["noise_correlation"]
    assert found["axis"] == "y"
    assert found["phi"] == pytest.approx(0.328, abs=1e-3)
