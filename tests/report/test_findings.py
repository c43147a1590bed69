"""Each sentence is said where it holds, and not where it does not."""

import math

import numpy as np
import pytest

from tiltfield.report import findings
from tiltfield.report.tilts import intensity_jumps, misfit, tilt_range, tilts_that_fit_badly
from tiltfield.report.words import degrees, percent, short, times

N = 41
ANGLES = np.linspace(-60, 60, N)


def tilts(heldout=None, chi2=None, mean_residual=None, numbers=None, seed=0):
    """Tilts whose errors scatter as those of a thousand held-out pixels do."""
    rng = np.random.default_rng(seed)
    usual = 1 + rng.normal(0, math.sqrt(2 / 1000), N)
    residual = rng.normal(0, 1, N)
    return {
        "number": list(range(1, N + 1)) if numbers is None else numbers,
        "angle_deg": ANGLES.tolist(),
        "heldout_chi2": (usual if heldout is None else heldout(usual)).tolist(),
        "chi2": (usual if chi2 is None else chi2(usual)).tolist(),
        "mean_residual": (residual if mean_residual is None else mean_residual(residual)).tolist(),
    }


def times_at(*places, by=4.0):
    def change(usual):
        usual[list(places)] *= by
        return usual

    return change


def one(found, level):
    assert len(found) == 1
    assert found[0].level == level
    return found[0].text


def test_a_tilt_that_fits_badly_is_named_as_exclude_takes_it():
    text = one(tilts_that_fit_badly(tilts(times_at(22))), "act")
    assert text.startswith("Tilt 23 (6°) fits ")
    assert "times worse than its neighbours: exclude it with `--exclude 23`" in text


@pytest.mark.parametrize("seed", range(20))
def test_tilts_that_fit_as_their_neighbours_do_are_left_alone(seed):
    assert tilts_that_fit_badly(tilts(seed=seed)) == []


def test_an_error_that_grows_with_the_tilt_is_no_outlier():
    assert tilts_that_fit_badly(tilts(lambda usual: usual / np.cos(np.deg2rad(ANGLES)) ** 2)) == []


def test_two_bad_tilts_side_by_side_are_both_found():
    assert [f.tilt for f in tilts_that_fit_badly(tilts(times_at(10, 11)))] in ([11, 12], [12, 11])


def test_many_bad_tilts_get_one_sentence():
    text = one(tilts_that_fit_badly(tilts(times_at(2, 9, 20, 33, by=3.0))), "act")
    assert text.startswith("Tilts 3, 10, 21, 34 fit ")
    assert "`--exclude 3,10,21,34`" in text


def test_numbers_are_those_of_the_file_whatever_the_order():
    figures = tilts(times_at(22), numbers=list(range(N, 0, -1)))
    assert [f.tilt for f in tilts_that_fit_badly(figures)] == [N - 22]


def test_all_pixels_tell_where_few_tilts_have_held_out_ones():
    figures = tilts(chi2=times_at(22))
    figures["heldout_chi2"] = [1.0 if k % 10 == 5 else None for k in range(N)]
    assert [f.tilt for f in tilts_that_fit_badly(figures)] == [23]


def test_a_jump_of_intensity_is_placed():
    text = one(intensity_jumps(tilts(mean_residual=lambda r: r + 50 * (np.arange(N) >= 17)), 1000.0), "look")
    assert text.startswith("From tilt 18 (−9°) on, images are 5 % of the grey range brighter")


def test_a_single_odd_intensity_is_named():
    text = one(intensity_jumps(tilts(mean_residual=lambda r: r - 60 * (np.arange(N) == 30)), 1000.0), "look")
    assert text.startswith("Tilt 31 (30°) is 6 % of the grey range darker")


@pytest.mark.parametrize("seed", range(20))
def test_intensities_that_only_scatter_are_left_alone(seed):
    assert intensity_jumps(tilts(mean_residual=lambda r: 3 * r, seed=seed), 1000.0) == []
    assert intensity_jumps(tilts(mean_residual=lambda r: 15 * r, seed=seed), 1000.0) == []


def test_a_slow_trend_is_no_jump():
    assert intensity_jumps(tilts(mean_residual=lambda r: r + np.linspace(-30, 30, N)), 1000.0) == []


def test_the_steepest_tilts_may_be_less_well_explained_and_a_trend_towards_them_is_no_step():
    ends = np.linspace(-1, 1, N) ** 8
    for away in (30 * ends, -30 * ends, 30 * ends * (np.arange(N) > N / 2)):
        assert intensity_jumps(tilts(mean_residual=lambda r, away=away: r + away), 1000.0) == []
    last = tilts(mean_residual=lambda r: r + 90 * (np.arange(N) == N - 1))
    assert f"ilt {N} " in one(intensity_jumps(last, 1000.0), "look")


def test_exposures_that_differ_a_little_are_to_be_looked_at():
    differ = tilts(mean_residual=lambda r: r + np.random.default_rng(0).normal(0, 50, N))
    assert "exposures differ" in one(intensity_jumps(differ, 1000.0), "look")


def test_much_noise_of_which_little_is_left_is_not_called_clean():
    text = one(misfit(tilts(lambda usual: 0.5 * usual), 0.1, 0.08), "look")
    assert "8 % of the grey range" in text
    assert "axis" in text


def test_a_misfit_is_told_and_a_fit_is_not():
    assert misfit(tilts()) == []
    assert "Residuals have 11 times the variance" in one(misfit(tilts(lambda usual: 11 * usual)), "act")
    assert "finer than the volume" in one(misfit(tilts(lambda usual: 2 * usual)), "look")
    assert "cleaner than that" in one(misfit(tilts(lambda usual: 0.1 * usual)), "note")


def test_structure_that_was_taken_for_noise_is_told():
    little = tilts(lambda usual: 0.4 * usual)
    assert "was taken for noise" in one(misfit(little, 0.9), "act")
    assert "cleaner than that" in one(misfit(little, 0.1), "note")


def test_a_step_near_the_first_tilt_is_told_without_a_number_of_nothing():
    for first in range(1, 8):
        stepped = tilts(mean_residual=lambda r, first=first: r + 200 * (np.arange(N) >= first))
        assert all("nan" not in found.text for found in intensity_jumps(stepped, 1000.0))


def test_where_errors_or_the_grey_range_are_not_known_nothing_is_said_of_them():
    unknown = {**tilts(), "chi2": [None] * N, "heldout_chi2": [None] * N}
    assert misfit(unknown) == tilts_that_fit_badly(unknown) == []
    for nothing in (0.0, float("nan")):
        assert intensity_jumps(tilts(mean_residual=lambda r: r + 100 * (np.arange(N) == 9)), nothing) == []


def test_exposures_that_differ_from_tilt_to_tilt_are_told():
    uneven = tilts(mean_residual=lambda r: r + np.random.default_rng(0).normal(0, 250, N))
    assert "exposures differ" in one(intensity_jumps(uneven, 1000.0), "act")


def test_few_tilts_are_told():
    assert any("3 tilts, 60° apart" in found.text for found in tilt_range([-60.0, 0.0, 60.0]))
    assert not any("apart" in found.text for found in tilt_range(np.arange(-60.0, 61.0, 4.0)))


CURVE = np.exp(-np.arange(60) / 8) + 1e-4 * np.cos(np.arange(60))


@pytest.mark.parametrize(
    ("metrics", "curve", "passes", "words"),
    [
        ({"interrupted": True}, CURVE, None, "stopped early"),
        ({"outcome": "diverged"}, CURVE, None, "became infinite"),
        ({"outcome": "finished"}, CURVE[:3], 45, "see every slice 3 times, the preset takes 45"),
        ({"outcome": "finished"}, CURVE[:12], None, "still falling"),
    ],
)
def test_a_fit_that_did_not_end_well_is_told(metrics, curve, passes, words):
    assert words in "".join(f.text for f in findings.fit_ended(metrics, curve, passes))


@pytest.mark.parametrize("outcome", ["finished", "converged"])
def test_a_fit_that_ended_well_is_not(outcome):
    assert findings.fit_ended({"interrupted": False, "outcome": outcome}, CURVE, 45) == []
    assert findings.fit_ended({"outcome": "converged"}, CURVE[:12], None) == []


def test_correlated_noise_is_told():
    noise = {"scan_axis": "x", "correlation": [0.51, 0.16]}
    lags = {"x": [0.5], "y": [0.01], "white_x": [0.02], "white_y": [0.01]}
    assert "along x correlates (0.51)" in one(findings.correlation(noise, lags), "note")
    assert findings.correlation({"scan_axis": None, "correlation": []}, {"x": [0.1], "y": [0.05]}) == []


def test_residuals_that_correlate_in_both_directions_are_told():
    text = one(findings.correlation({"scan_axis": None, "correlation": []}, {"x": [0.6], "y": [0.4]}), "look")
    assert "in both directions (0.60 along x, 0.40 along y)" in text
    assert findings.correlation({}, {}) == []


def test_a_model_that_is_not_calibrated_is_told_once():
    assert "off by up to 12 %" in one(findings.calibration(0.12, misfit=False), "look")
    assert findings.calibration(0.12, misfit=True) == findings.calibration(0.02, misfit=False) == []


def test_saturation_is_told_with_its_end():
    assert findings.saturation(0.0, 0.001) == []
    assert "3 % of the pixels have the brightest grey value" in one(findings.saturation(0.0, 0.03), "look")
    assert len(findings.saturation(0.02, 0.03)) == 2


def test_many_masked_pixels_are_told():
    assert findings.masked(0.0005) == []
    assert "4 % of the pixels" in one(findings.masked(0.04), "look")


@pytest.mark.parametrize(
    ("found", "n_z", "ends", "words"),
    [
        (True, 64, (0, 0), "was not found"),
        (True, 30, (0.95, 0.1), "reaches the top of the box"),
        (False, 30, (0.1, 0.95), "reaches the bottom of the box"),
        (True, 30, (1.0, 1.2), "reaches the top and the bottom of the box"),
    ],
)
def test_a_specimen_that_may_be_cut_is_told(found, n_z, ends, words):
    text = one(findings.thickness(found, n_z, 64, ends), "act")
    assert words in text
    assert "`--thickness`" in text


def test_a_specimen_that_has_room_is_not():
    assert findings.thickness(True, 30, 64, (0.1, 0.8)) == findings.thickness(False, 64, 64, (0.0, 0.0)) == []


def test_a_constant_volume_is_told():
    assert "nearly constant" in one(findings.contrast_of_volume(0.99, 1.0, 1.0), "act")
    assert "nearly constant" in one(findings.contrast_of_volume(0.0, 0.0, 0.0), "act")
    assert findings.contrast_of_volume(0.0, 1.0, 0.3) == []


def test_the_missing_wedge_is_always_told():
    text = one(tilt_range(np.arange(-60, 61, 2)), "note")
    assert "from −60° to 60°: a wedge of 60° was never seen" in text
    assert "along z 1.6 times" in text  # Radermacher: √((π/3 + √3/4) / (π/3 − √3/4)) = 1.55
    assert one(tilt_range(np.arange(-40, 41, 2)), "look")


def test_gaps_between_tilts_are_told():
    angles = np.arange(-60, 61, 2.0)
    found = tilt_range(angles[(angles < 10) | (angles > 20)])
    assert "There are no images between 8° and 22°." in [f.text for f in found]
    golden = np.sort((np.arange(60) * 111.246) % 120 - 60)  # steps of three lengths
    assert len(tilt_range(golden)) == 1


def test_a_gain_that_is_not_told_by_vacuum_is_told():
    assert "No vacuum is in view" in one(findings.gain_and_offset("bf", 600.0, 1000.0, 0.0), "look")
    assert findings.gain_and_offset("bf", 980.0, 1000.0, 0.0) == []
    assert findings.gain_and_offset("haadf", 600.0, 1000.0, 0.0) == []


def test_doubts_of_the_reader_are_passed_on():
    notes = ["tilts -60° to 60°", "warning angles: a.tlt says 3°, the header 4°; a.tlt was used"]
    assert one(findings.doubts(notes), "look") == "Angles: a.tlt says 3°, the header 4°; a.tlt was used."


def test_numbers_read_well():
    assert [times(r) for r in (1.62, 4.02, 12.4)] == ["1.6", "4", "12"]
    assert [percent(s) for s in (0.0421, -0.0113, 0.5)] == ["4 %", "1.1 %", "50 %"]
    assert [degrees(a) for a in (-60.0, 1.5)] == ["−60°", "1.5°"]
    assert [short(v) for v in (None, 13.44, 62188.4, -0.0123)] == ["–", "13.4", "62188", "−0.0123"]
