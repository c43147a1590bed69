"""From densities to grey values and back: means, ranges, signs, and what is said of them."""

import re

import numpy as np
import pytest

from tiltfield.config import ExportConfig
from tiltfield.errors import InputError
from tiltfield.export.scaling import Scaling, display_range, ends, extremes, find_scaling, percentiles

ENDS = {"int8": (-127, 127), "uint8": (0, 255), "int16": (-32767, 32767), "uint16": (0, 65535)}
WHOLE = tuple(ENDS)


@pytest.fixture
def density():
    return np.random.default_rng(0).gamma(2.0, 0.01, (20, 30, 40)).astype(np.float32)


def scaled(density, **settings):
    scaling = find_scaling(density, ExportConfig(format="ome-zarr", **settings))
    return scaling, scaling.apply(density)


def test_densities_are_left_alone_unless_asked(density):
    scaling, values = scaled(density)
    assert np.shares_memory(values, density)
    assert scaling.words() == ""


@pytest.mark.parametrize("invert", [False, True])
@pytest.mark.parametrize("dtype", ["int16", "uint16"])
def test_sixteen_bits_span_the_type_and_the_label_recovers_the_density(density, dtype, invert):
    scaling, values = scaled(density, dtype=dtype, invert=invert)
    assert (values.dtype, values.min(), values.max()) == (np.dtype(dtype), *ENDS[dtype])
    step, sign, zero = re.fullmatch(r"density = (\S+) \* value ([+-]) (\S+)", scaling.words()).groups()
    back = float(step) * values.astype(float) + float(sign + zero)
    assert np.abs(back - density).max() < 0.51 * abs(float(step)) + 1e-6 * density.max()
    assert (float(step) < 0) == invert


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_bytes_cut_off_a_thousandth_at_either_end(density, dtype):
    density[0, 0, 0] = 0.5  # one bead
    scaling, values = scaled(density, dtype=dtype)
    for end in ENDS[dtype]:
        assert 0.0005 < (values == end).mean() < 0.01
    assert np.unique(values).size > 200
    assert 0.001 < scaling.cut_off < 0.002


@pytest.mark.parametrize("dtype", ["float32", *WHOLE])
@pytest.mark.parametrize("invert", [False, True])
def test_the_mean_is_what_was_asked_for(density, dtype, invert):
    scaling, values = scaled(density, dtype=dtype, invert=invert, mean_intensity=20.0)
    assert values.mean(dtype=float) == pytest.approx(20.0, rel=0.01 if scaling.cut_off < 0.001 else 0.1)
    assert (np.corrcoef(values.ravel(), density.ravel())[0, 1] < 0) == invert
    if not invert:
        assert scaling.apply(np.zeros(1, np.float32)) == 0  # it is scaled, not shifted


def test_inverted_densities_are_negative(density):
    np.testing.assert_array_equal(scaled(density, invert=True)[1], -density)


@pytest.mark.parametrize("dtype", WHOLE)
def test_a_constant_volume_stays_constant(dtype):
    scaling, values = scaled(np.full((2, 3, 4), 0.3, np.float32), dtype=dtype)
    assert np.unique(values).size == 1
    step, zero = scaling.inverse
    assert step * float(values[0, 0, 0]) + zero == pytest.approx(0.3)


def test_values_beyond_the_type_are_cut_off_not_wrapped():
    scaling = Scaling(np.dtype("int8"), 100.0)
    np.testing.assert_array_equal(scaling.apply(np.array([-9.0, 0.0, 9.0], np.float32)), [-127, 0, 127])


def test_signed_types_reach_as_far_down_as_up():
    """Bio-Formats takes an MRC file of 16 bits whose least value is below -32767.5 for an unsigned one."""
    assert {dtype: ends(np.dtype(dtype)) for dtype in WHOLE} == ENDS


def test_what_is_shown_leaves_the_outermost_thousandths_out(density):
    density[0, 0, 0] = 1e3  # one bead
    low, high = display_range(density)
    assert 0.0005 < (density < low).mean() < 0.002
    assert 0.0005 < (density > high).mean() < 0.002
    assert display_range(density, Scaling(np.dtype(np.float32), -1.0)) == pytest.approx((-high, -low))
    assert display_range(np.full((2, 2, 2), 3.0, np.float32)) == (3.0, 4.0)


def test_a_mean_of_nothing_is_refused():
    with pytest.raises(InputError, match=r"--mean-intensity.*positive mean.*--dtype"):
        scaled(np.array([[[-1.0, 0.5]]], np.float32), mean_intensity=100.0)


def test_percentiles_are_those_of_numpy(density, monkeypatch):
    monkeypatch.setattr("tiltfield.io.slabs.SLAB", 7000)  # several slabs
    low, high = extremes(density)
    assert (low, high) == (density.min(), density.max())
    shares = (0.001, 0.5, 0.999)
    np.testing.assert_allclose(
        percentiles(density, low, high, shares), np.percentile(density, [0.1, 50, 99.9]), atol=2e-5, rtol=0.02
    )


@pytest.mark.parametrize(("name", "dtype"), [("mrc", "uint8"), ("tiff", "int8")])
def test_a_type_that_a_format_does_not_hold_is_refused_at_once(name, dtype):
    with pytest.raises(InputError, match=f"{name} does not hold {dtype}: take float32"):
        ExportConfig.parse({"format": name, "dtype": dtype}, "settings")


@pytest.mark.parametrize(
    ("settings", "formats"),
    [
        ({}, ()),
        ({"format": "tiff, mrc"}, ("tiff", "mrc")),
        ({"format": ["mrc", "mrc"]}, ("mrc",)),
        ({"orient": "xzy"}, ("mrc",)),
        ({"dtype": "uint8"}, ("tiff",)),
        ({"dtype": "int16", "format": ["tiff"]}, ("tiff",)),
    ],
)
def test_an_option_without_a_format_means_mrc(settings, formats):
    assert ExportConfig.parse(settings, "settings").formats == formats
