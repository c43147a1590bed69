"""`tiltfield noise`: fit, compare, sample; files whole or not at all, refusals with a way out."""

import hashlib
import json
import typing

import numpy as np
import pytest

from tiltfield import cli
from tiltfield.config import LearnedNoise, NoiseConfig
from tiltfield.io import load_frames, write_stack
from tiltfield.noise import load_noise
from tiltfield.noise.learn import LEARNABLE


@pytest.fixture(scope="module")
def files(repeats, tmp_path_factory):
    """Files of two fields: repeats as stacks, one frame each, the clean image; and a fitted model."""
    folder = tmp_path_factory.mktemp("noise")
    for name, seed in (("a", 0), ("b", 1)):
        known = repeats(128, 2, seed, True)
        write_stack(known.frames, folder / f"{name}.mrc", 0.8)
        write_stack(known.clean[None], folder / f"{name}-clean.mrc", 0.8)
        for i, frame in enumerate(known.frames):
            write_stack(frame[None], folder / f"{name}{i}.mrc", 0.8)
    fit = ["noise", "fit", folder / "a-clean.mrc", folder / "a.mrc", "--model", "poisson-gaussian", "--quiet"]
    with pytest.raises(SystemExit):
        cli.main([str(w) for w in [*fit, "--out", folder / "pg.json"]])
    return folder


def refused(result, *parts):
    code, out, err = result
    assert code == 2, err
    assert out == ""
    for part in parts:
        assert part in err


def test_the_models_of_the_settings_are_those_that_can_be_learned():
    assert typing.get_args(LearnedNoise) == LEARNABLE


def test_help_names_every_setting(tiltfield, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = tiltfield("noise", "fit", "--help")[1]
    for name, info in NoiseConfig.model_fields.items():
        assert f"--{name}" in out
        assert info.description in out


def test_a_model_of_given_pairs(files, repeats):
    noise = load_noise(files / "pg.json")
    known = repeats(128, 2, 0, True)
    assert noise.model.log_slope.exp().item() == pytest.approx(known.slope, rel=0.1)
    assert noise.low < np.median(known.clean) < noise.high
    clean, noisy = noise.about["sources"]
    assert (clean["path"], clean["role"]) == (str((files / "a-clean.mrc").resolve()), "clean")
    assert (noisy["path"], noisy["role"]) == (str((files / "a.mrc").resolve()), "noisy")
    frames = [frame.astype(np.float32).tobytes() for frame in load_frames(files / "a.mrc").images]
    assert noisy["frames"] == [hashlib.blake2b(frame, digest_size=8).hexdigest() for frame in frames]


def test_a_scan_along_the_columns_is_noticed(tiltfield, files, tmp_path):
    fit = ["--model", "gaussian", "--out", tmp_path / "m.json"]
    err = tiltfield("noise", "fit", files / "a-clean.mrc", files / "a.mrc", *fit)[2]
    assert "correlates by 0.5" in err
    assert "scanned along the columns" not in err
    for name in ("a-clean", "a"):
        write_stack(load_frames(files / f"{name}.mrc").images.swapaxes(1, 2), tmp_path / f"{name}.mrc")
    err = tiltfield("noise", "fit", tmp_path / "a-clean.mrc", tmp_path / "a.mrc", *fit, "--overwrite")[2]
    assert "scanned along the columns: transpose them" in err


@pytest.mark.parametrize("names", [["a.mrc"], ["a0.mrc", "a1.mrc"], ["a.mrc", "b.mrc"]], ids=" ".join)
def test_a_model_of_repeats(tiltfield, files, tmp_path, names):
    out = tmp_path / "model.json"
    words = ["noise", "fit", "--repeats", *(files / n for n in names), "--model", "poisson-gaussian", "--out", out]
    code, said, err = tiltfield(*words)
    assert code == 0, err
    assert "poisson-gaussian" in said
    assert "clean images by" in err
    about = load_noise(out).about
    n_fields = len(names) if names[0] == "a.mrc" else 1
    assert len(about["denoiser"]) == n_fields
    assert about["shape"] == [2 * n_fields, 128, 128]
    assert load_noise(out).model.log_slope.exp().item() == pytest.approx(250, rel=0.2)


def test_a_tilt_series_holds_no_repeats_be_it_in_one_file_or_in_many(tiltfield, files, tmp_path):
    frames = load_frames(files / "a.mrc").images
    write_stack(frames, tmp_path / "series.mrc")
    (tmp_path / "series.rawtlt").write_text("-10\n12.5\n")
    for frame, tilt in zip(frames, (-10, 12.5), strict=True):
        write_stack(frame[None], tmp_path / f"{tilt}.mrc")
        (tmp_path / f"{tilt}.rawtlt").write_text(f"{tilt}\n")
    for names in (["series.mrc"], ["-10.mrc", "12.5.mrc"]):
        words = ["noise", "fit", "--repeats", *(tmp_path / n for n in names), "--out", tmp_path / "model.json"]
        refused(tiltfield(*words), names[0], "-10° to 12.5°", "one tilt")
    (tmp_path / "series.rawtlt").write_text("12.4\n12.5\n")  # a stage that reads out what it can
    words = ["--model", "gaussian", "--quiet", "--out", tmp_path / "model.json"]
    assert tiltfield("noise", "fit", "--repeats", tmp_path / "series.mrc", *words) == (0, "", "")


def test_the_same_seed_gives_the_same_file(tiltfield, files, tmp_path):
    outs = [tmp_path / "1.json", tmp_path / "2.json"]
    for out in outs:
        words = ["--model", "poisson-gaussian", "--seed", 3, "--crop", 96, "--quiet", "--out", out]
        assert tiltfield("noise", "fit", files / "a-clean.mrc", files / "a.mrc", *words) == (0, "", "")
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_comparing_a_file_with_a_named_model(tiltfield, files, tmp_path):
    pairs = ["--clean", files / "b-clean.mrc", "--noisy", files / "b.mrc"]
    train = ["--train-clean", files / "a-clean.mrc", "--train-noisy", files / "a.mrc"]
    code, out, err = tiltfield(
        "noise", "compare", files / "pg.json", "gaussian", *pairs, *train, "--out", tmp_path / "c"
    )
    assert code == 0, err
    assert "pg.json" in out
    assert "floor (even against odd rows)" in out
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == [
        "comparison.json",
        "comparison.md",
        "comparison.png",
    ]
    figures = json.loads((tmp_path / "c" / "comparison.json").read_text())
    by_name = {v["name"]: v for v in figures["verdicts"]}
    assert by_name["pg.json"]["slope_ratio"] == pytest.approx(1, abs=0.2)
    assert by_name["gaussian"]["slope_ratio"] == pytest.approx(0, abs=0.2)


@pytest.mark.parametrize(
    ("source", "flattered"),
    [
        (["--clean", "a-clean.mrc", "--noisy", "a.mrc"], True),
        (["--repeats", "a.mrc", "--crop", 96], True),
        (["--clean", "a-clean.mrc", "--noisy", "a1.mrc"], True),  # one of its frames, in another file
        (["--clean", "b-clean.mrc", "--noisy", "b.mrc"], False),
        (["--clean", "a-clean.mrc", "--noisy", "other.mrc"], False),  # the same field, another exposure
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_judging_by_the_frames_fitted_to_is_said(tiltfield, files, tmp_path, source, flattered):
    clean = load_frames(files / "a-clean.mrc").images
    noise = np.random.default_rng(0).normal(0, 400, clean.shape)
    write_stack(clean + noise, tmp_path / "other.mrc")
    words = [(tmp_path if w == "other.mrc" else files) / w if str(w).endswith(".mrc") else w for w in map(str, source)]
    code, out, err = tiltfield("noise", "compare", files / "pg.json", *words, "--out", tmp_path / "c", "--quiet")
    assert code == 0, err
    said = "pg.json was fitted to these very frames: its figures flatter it"
    assert (said in out) == flattered
    assert (said in (tmp_path / "c" / "comparison.md").read_text()) == flattered
    assert json.loads((tmp_path / "c" / "comparison.json").read_text())["notes"] == [said] * flattered


def test_named_models_fitted_to_the_frames_they_are_judged_by_are_said(tiltfield, files, tmp_path):
    words = ["--clean", files / "a-clean.mrc", "--noisy", files / "a.mrc"]
    train = ["--train-clean", files / "a-clean.mrc", "--train-noisy", files / "a.mrc"]
    out = tiltfield("noise", "compare", "gaussian", *words, *train, "--out", tmp_path, "--quiet")[1]
    assert "gaussian was fitted to these very frames" in out


def test_files_of_one_name_are_called_in_full(tiltfield, files, tmp_path):
    others = [tmp_path / folder / "pg.json" for folder in "xy"]
    for other in others:
        other.parent.mkdir()
        other.write_bytes((files / "pg.json").read_bytes())
    pairs = ["--clean", files / "b-clean.mrc", "--noisy", files / "b.mrc", "--crop", 64, "--json"]
    (tmp_path / "third.json").write_bytes((files / "pg.json").read_bytes())
    models = [*others, tmp_path / "third.json"]
    code, out, err = tiltfield("noise", "compare", *models, *pairs, "--out", tmp_path / "c", "--quiet")
    assert code == 0, err
    assert [v["name"] for v in json.loads(out)["verdicts"]] == [*map(str, others), "third.json"]


def test_a_file_in_place_of_the_folder_is_refused_before_anything_is_fitted(tiltfield, files, tmp_path, monkeypatch):
    monkeypatch.setattr("tiltfield.noise.learn.learn", lambda *_: pytest.fail("fitted"))
    (tmp_path / "taken").write_text("mine")
    for out in (tmp_path / "taken", tmp_path / "taken" / "below"):
        words = ["noise", "compare", "gaussian", "--repeats", files / "b.mrc", "--out", out]
        refused(tiltfield(*words), "taken is a file: --out takes a folder")
    assert (tmp_path / "taken").read_text() == "mine"


def test_a_field_that_saturates_and_one_that_does_not_are_one_detector(tiltfield, files, tmp_path):
    bright = load_frames(files / "a.mrc").images
    top = float(np.quantile(bright, 0.99))
    write_stack(np.minimum(bright, top), tmp_path / "clipped.mrc")
    write_stack(load_frames(files / "b.mrc").images - 2500, tmp_path / "dark.mrc")
    repeats = ["--repeats", tmp_path / "clipped.mrc", tmp_path / "dark.mrc", "--out", tmp_path / "m.json"]
    code, _, err = tiltfield("noise", "fit", *repeats, "--model", "gaussian")
    assert code == 0, err
    assert err.count("left as recorded (saturated at") == 2
    assert load_noise(tmp_path / "m.json").model.recording.high == pytest.approx(top)


def test_without_training_data_halves_are_used_and_said(tiltfield, files, tmp_path):
    words = ["--repeats", files / "b.mrc", "--out", tmp_path, "--json"]
    code, out, err = tiltfield("noise", "compare", "gaussian", *words)
    assert code == 0
    assert "upper half of the rows" in err
    assert [v["name"] for v in json.loads(out)["verdicts"]] == ["gaussian"]


def test_a_comparison_is_not_written_over(tiltfield, files, tmp_path):
    (tmp_path / "comparison.md").write_text("mine")
    words = ["noise", "compare", "gaussian", "--repeats", files / "b.mrc", "--out", tmp_path]
    refused(tiltfield(*words), "comparison.md", "--overwrite")
    assert (tmp_path / "comparison.md").read_text() == "mine"
    assert tiltfield(*words, "--overwrite", "--quiet")[0] == 0


def test_sampled_noise(tiltfield, files, tmp_path, repeats):
    words = ["noise", "sample", files / "pg.json", files / "b-clean.mrc"]
    for name, seed in (("1", 0), ("2", 0), ("3", 1)):
        assert tiltfield(*words, "--seed", seed, "--out", tmp_path / f"{name}.mrc")[0] == 0
    drawn = [load_frames(tmp_path / f"{name}.mrc") for name in "123"]
    np.testing.assert_array_equal(drawn[0].images, drawn[1].images)
    assert not np.array_equal(drawn[0].images, drawn[2].images)
    assert drawn[0].pixel_size_nm == pytest.approx(0.8)
    known = repeats(128, 2, 1, True)
    noise = drawn[0].images[0] - known.clean
    assert noise.std() == pytest.approx(known.noise.std(), rel=0.1)
    refused(tiltfield(*words, "--out", tmp_path / "1.mrc"), "there already", "--overwrite")


def test_a_sampled_series_keeps_its_angles(tiltfield, files, tmp_path):
    clean = np.full((3, 64, 64), 4000.0)
    write_stack(clean, tmp_path / "series.mrc", 1.0)
    (tmp_path / "series.rawtlt").write_text("-10\n0\n12.5\n")
    words = ["noise", "sample", files / "pg.json", tmp_path / "series.mrc", "--out", tmp_path / "noisy.mrc"]
    assert "noisy.rawtlt" in tiltfield(*words)[1]
    np.testing.assert_allclose(load_frames(tmp_path / "noisy.mrc").angles_deg, [-10, 0, 12.5])


def test_another_unit_is_noticed(tiltfield, files, tmp_path):
    write_stack(np.full((1, 64, 64), 0.5), tmp_path / "unit.mrc")
    err = tiltfield("noise", "sample", files / "pg.json", tmp_path / "unit.mrc", "--out", tmp_path / "x.mrc")[2]
    assert "check that both are in the same unit" in err


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["fit", "a.mrc"], ["expected either", "got clean"]),
        (["fit"], ["expected either", "got neither"]),
        (["fit", "a-clean.mrc", "a.mrc", "--repeats", "b.mrc"], ["expected either"]),
        (["fit", "a.mrc", "a.mrc"], ["the same"]),
        (["fit", "--repeats", "a0.mrc"], ["a0.mrc holds one frame", "at least two"]),
        (["fit", "--repeats", "a0.mrc", "b.mrc"], ["one frame", "several"]),
        (["fit", "--repeats", "missing.mrc"], ["missing.mrc", "no such file"]),
        (["fit", "--repeats", "a.mrc", "--model", "scanflow"], ["--model", "did you mean 'scan-flow'"]),
        (["fit", "--repeats", "a.mrc", "--crop", "8"], ["--crop"]),
        (["compare", "folw", "--repeats", "a.mrc"], ["'folw' is neither", "did you mean 'flow'"]),
        (["compare", "a.mrc", "--repeats", "a.mrc"], ["not a noise model"]),
        (["compare", "--clean", "a.mrc"], ["--clean --noisy", "got clean"]),
        (["sample", "pg.json", "missing.mrc"], ["missing.mrc"]),
        (["sample", "a.mrc", "a-clean.mrc"], ["not a noise model"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input_is_refused_and_nothing_written(tiltfield, files, tmp_path, words, parts):
    named = [files / w if w.endswith((".mrc", ".json")) else w for w in words]
    refused(tiltfield("noise", *named, "--out", tmp_path / "out"), *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tiltfield, files, tmp_path):
    words = ["noise", "fit", files / "a-clean.mrc", files / "a.mrc", "--out", tmp_path / "no" / "model.json"]
    refused(tiltfield(*words), "does not exist")
