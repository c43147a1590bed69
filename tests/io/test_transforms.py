"""IMOD's transforms: what a line does, how steps are chained, what is masked, and what is only told."""

import re
from pathlib import Path

import numpy as np
import pytest
import samples
import yaml
from scipy.ndimage import gaussian_filter

from tiltfield.config import ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.io import load
from tiltfield.io.transforms import read_transforms
from tiltfield.runfolder import RunFolder

N, ROWS, COLS = 5, 30, 22
ANGLES = np.linspace(-40, 40, N)
UNMOVED = (1.0, 0.0, 0.0, 1.0, 0.0, 0.0)


def smooth(rows=ROWS, cols=COLS):
    """Images that an interpolation does justice to."""
    noise = np.random.default_rng(0).normal(0, 1, (N, rows, cols))
    return np.stack([gaussian_filter(image, 3) for image in noise]).astype("f4") * 100 + 500


def stack(folder, images=None, name="x.st"):
    path = samples.mrc(folder, smooth() if images is None else images).rename(folder / name)
    path.with_suffix(".rawtlt").write_text("\n".join(map(str, ANGLES)))
    return path


def transforms(path, rows):
    path.write_text("".join(" ".join(f"{v:12.7f}" for v in row) + "\n" for row in rows))
    return path


def test_whole_shifts_move_pixels_by_columns_and_rows(tmp_path):
    images = smooth()
    rows = [UNMOVED] * 2 + [(1, 0, 0, 1, 2, -3)] + [UNMOVED] * 2
    series = load(stack(tmp_path, images), transforms=transforms(tmp_path / "a.xf", rows))
    expected = images[2][3:, :-2]  # two columns to the right, three rows towards the first
    np.testing.assert_allclose(series.images[2][:-3, 2:], expected, rtol=1e-5)
    seen = np.zeros((ROWS, COLS), bool)
    seen[:-3, 2:] = True
    np.testing.assert_array_equal(series.valid[2], seen)
    assert series.valid[[0, 1, 3, 4]].all()
    np.testing.assert_allclose(series.images[0], images[0], rtol=1e-5)
    assert series.sources["transforms"] == f"{tmp_path / 'a.xf'}, as given"


def blob(x, y):
    return 100 * np.exp(-((x - 5) ** 2 + (y + 6) ** 2) / (2 * 2.5**2)) + 0.01 * x


@pytest.mark.parametrize(
    "numbers",
    [(1, 0, 0, 1, 3.3, -2.6), (0.9, -0.3, 0.2, 1.1, 1.5, 2.5), (0.87, 0.5, -0.5, 0.87, -4, 0), (1, 0.2, 0, 1, 0, 0)],
)
def test_a_point_goes_where_the_six_numbers_say(tmp_path, numbers):
    """x' = A11 x + A12 y + DX, y' = A21 x + A22 y + DY, from the centre of the image, y along the rows."""
    a11, a12, a21, a22, dx, dy = numbers
    y, x = np.mgrid[:41, :36] - np.array([20.0, 17.5])[:, None, None]
    images = np.stack([blob(x, y)] * N).astype("f4")
    series = load(stack(tmp_path, images), transforms=transforms(tmp_path / "a.xf", [numbers] * N))
    determinant = a11 * a22 - a12 * a21
    from_x = (a22 * (x - dx) - a12 * (y - dy)) / determinant
    from_y = (a11 * (y - dy) - a21 * (x - dx)) / determinant
    inside = (np.abs(from_x) <= 17.51) & (np.abs(from_y) <= 20.01)  # files are rounded
    np.testing.assert_array_equal(series.valid[0], inside)
    np.testing.assert_allclose(series.images[0][inside], blob(from_x, from_y)[inside], atol=0.05)


def test_a_quarter_turn_swaps_rows_and_columns_and_is_exact(tmp_path):
    images = smooth()
    series = load(stack(tmp_path, images), transforms=transforms(tmp_path / "a.xf", [(0, -1, 1, 0, 0, 0)] * N))
    assert series.images.shape == (N, COLS, ROWS)
    np.testing.assert_allclose(series.images, np.rot90(images, -1, axes=(1, 2)), rtol=1e-5)
    assert series.valid is None


def test_transforms_come_before_the_tilt_axis_and_a_file_of_theirs_is_one_turn(tmp_path):
    path, turn = stack(tmp_path), np.deg2rad(12)
    cos, sin = np.cos(turn), np.sin(turn)
    turned = load(path, transforms=transforms(tmp_path / "a.xf", [(cos, -sin, sin, cos, 0, 0)] * N))
    np.testing.assert_allclose(turned.images, load(path, tilt_axis=12).images, rtol=1e-4)
    back = load(path, transforms=tmp_path / "a.xf", tilt_axis=-12)
    np.testing.assert_allclose(back.images, smooth(), rtol=1e-4)  # together they are nothing
    assert back.valid is None


def test_bad_pixels_stay_masked_where_they_go(tmp_path):
    images = smooth()
    images[2, 10, 10] = 9999
    rows = [(1, 0, 0, 1, 4, 0)] * N
    series = load(stack(tmp_path, images), transforms=transforms(tmp_path / "a.xf", rows))
    assert not series.valid[2, 10, 14]
    assert series.valid[2, 10, 16]
    assert series.valid[1, 10, 14]


def test_counts_are_no_counts_once_they_are_interpolated(tmp_path):
    images = smooth().astype("i2")
    path = stack(tmp_path, images)
    assert load(path).quantum == 1.0
    assert load(path, transforms=transforms(tmp_path / "a.xf", [(1, 0, 0, 1, 0.5, 0)] * N)).quantum is None


def test_binning_comes_after_and_excluded_images_take_their_lines_along(tmp_path):
    images = smooth()
    rows = [(1, 0, 0, 1, float(i), 0) for i in range(N)]
    options = {"transforms": transforms(tmp_path / "a.xf", rows), "exclude": [2]}
    whole, binned = (load(stack(tmp_path, images), bin=n, **options) for n in (1, 2))
    np.testing.assert_allclose(whole.images[1][:, 2:], images[2][:, :-2], rtol=1e-5)
    np.testing.assert_array_equal(binned.images, whole.binned(2).images)


def test_steps_are_chained_and_the_untilted_image_stays(tmp_path):
    """G(i) = G(i-1) F(i): a shift counts for all images behind it, and is turned as those before were."""
    rows = [UNMOVED, (1, 0, 0, 1, 1, 2), (0, -1, 1, 0, 5, 0), (1, 0, 0, 1, 3, 0), UNMOVED]
    placed = read_transforms(transforms(tmp_path / "a.prexf", rows), N, np.array([-40, -20, 20, 0.1, 60]))
    np.testing.assert_allclose(placed.matrices[3], np.eye(2), atol=1e-12)
    np.testing.assert_allclose(placed.shifts[3], 0, atol=1e-12)
    point = np.array([7.0, -4.0])
    step = np.array([[0, -1], [1, 0]])
    shifts = [np.array(shift) for shift in ((3, 0), (5, 0), (1, 2))]
    in_first = step @ (point + shifts[0]) + shifts[1] + shifts[2]  # a point of the fourth image, seen in the first
    np.testing.assert_allclose(placed.matrices[0] @ in_first + placed.shifts[0], point, atol=1e-12)
    np.testing.assert_array_equal(
        read_transforms(transforms(tmp_path / "a.prexg", rows), N).shifts, np.array(rows)[:, 4:]
    )


def test_without_angles_the_middle_image_stays(tmp_path):
    placed = read_transforms(transforms(tmp_path / "a.prexf", [(1, 0, 0, 1, 1, 0)] * 4), 4)
    np.testing.assert_allclose(placed.shifts[:, 0], [-2, -1, 0, 1])


def test_refined_angles_come_first_with_transforms(tmp_path):
    path = stack(tmp_path)
    path.with_suffix(".tlt").write_text("\n".join(map(str, ANGLES + 0.3)))
    assert load(path).sources["angles"].startswith("x.rawtlt")
    given = load(path, transforms=transforms(tmp_path / "a.xf", [UNMOVED] * N))
    assert given.sources["angles"].startswith("x.tlt")


@pytest.mark.parametrize("name", ["x.xf", "x_fid.xf", "x.prexg", "x.prexf"])
def test_what_lies_beside_is_told_and_not_applied(tmp_path, name):
    path = stack(tmp_path)
    transforms(tmp_path / name, [(1, 0, 0, 1, 5, 5)] * N)
    series = load(path)
    np.testing.assert_array_equal(series.images, smooth())
    assert series.sources["transforms"].endswith(f"give --transforms {name}")


def test_an_aligned_stack_is_not_asked_for_transforms_and_wonders_about_them(tmp_path):
    path = stack(tmp_path, name="x.ali")
    given = transforms(tmp_path / "x.xf", [UNMOVED] * N)
    assert "transforms" not in load(path).sources
    assert "x.ali is aligned by its name" in load(path, transforms=given).sources["warning transforms"]


@pytest.mark.parametrize(
    ("tilts", "key", "message"),
    [
        (np.zeros(N), None, ""),
        (np.full(N, 1.5), "x-axis tilt", "pitched by 1.50° about x; .* needs no correction"),
        (np.linspace(-0.5, 1, N), "warning x-axis tilt", "tilted about x by -0.50° to 1.00°; this was not corrected"),
        (None, "warning x-axis tilt", "cannot be read"),
    ],
)
def test_tilts_about_x(tmp_path, tilts, key, message):
    path = stack(tmp_path)
    (tmp_path / "x.xtilt").write_text("what?" if tilts is None else "\n".join(map(str, tilts)))
    sources = load(path).sources
    assert [k for k in sources if "x-axis" in k] == ([key] if key else [])
    if key:
        assert re.search(message, sources[key])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xf", "1 0 0 1 0 0\n" * 4, r"has 4 transforms, the stack 5 images; .*--transforms"),
        ("a.xf", "1 0 0 1 0 0\n1 0 0 1 0\n", r"line 2: expected six numbers, A11 .*got '1 0 0 1 0'"),
        ("a.xf", "1 0 0 1 0 0 7\n", "line 1: expected six numbers"),
        ("a.xf", "1 0 0 1 none 0\n", "line 1: expected six numbers"),
        ("a.xf", "0 0 0 0 0 0\n" * 5, r"transform 1: it would scale the image by 0 to 0"),
        ("a.xf", "9 0 0 9 0 0\n" * 5, r"transform 1: it would scale"),
        ("a.xf", "1 0 0 1 0 0\n" * 4 + "1 0 0 1 900 0\n", r"image 5 .* moved out of view, by 900 columns and 0 rows"),
        ("a.xf", "", "empty file"),
        ("a.xf", "\0\1", "binary data"),
        ("a.xtilt", "0\n" * 5, "holds tilts about the x axis, expected transforms"),
    ],
)
def test_bad_transforms(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=message):
        load(stack(tmp_path), transforms=tmp_path / name)


def test_transforms_that_are_not_there(tmp_path):
    with pytest.raises(InputError, match=r"none\.xf: cannot read the transforms \(No such file"):
        load(stack(tmp_path), transforms=tmp_path / "none.xf")


def test_the_command_line_takes_them_and_a_run_remembers_where_they_are(tmp_path, tiltfield):
    path = stack(tmp_path)
    given = transforms(tmp_path / "a.xf", [(1, 0, 0, 1, 2, 0)] * N)
    code, out, _ = tiltfield("info", path, "--transforms", given)
    assert code == 0
    assert f"transforms: {given}, as given" in " ".join(out.split())
    code, _, err = tiltfield("info", path, "--tilt-axis", "file")
    assert code == 2
    assert "neither an .mdoc" in err
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.write_config(path, ReconstructConfig(transforms=Path("a.xf"), angles=Path("a.tlt"), tilt_axis="file"))
    kept = yaml.safe_load((folder.path / "config.yaml").read_text())
    assert (kept["transforms"], kept["angles"]) == (str(Path("a.xf").resolve()), str(Path("a.tlt").resolve()))
    assert kept["tilt_axis"] == "file"
