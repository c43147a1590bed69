import numpy as np
import pytest
import samples

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames

DATA = samples.make(dtype="i2")


@pytest.mark.parametrize(
    "given", [DATA, np.asfortranarray(DATA), DATA.astype(">i2"), DATA.astype("<f8"), DATA[::-1, :, ::2]]
)
def test_orders_of_values_and_bytes(tmp_path, given):
    np.save(tmp_path / "x.npy", given)
    (tmp_path / "x.tlt").write_text("\n".join(map(str, samples.ANGLES)))
    raw = load_frames(tmp_path / "x.npy")
    np.testing.assert_array_equal(raw.images, given)
    assert raw.images.dtype.isnative
    np.testing.assert_array_equal(load(tmp_path / "x.npy").images, given.astype("f4"))


def test_a_single_image(tmp_path):
    np.save(tmp_path / "x.npy", DATA[0])
    np.testing.assert_array_equal(load_frames(tmp_path / "x.npy").images, DATA[:1])


@pytest.mark.parametrize(
    "given", [np.zeros(5), np.zeros((2, 3, 4, 5)), np.zeros((3, 4, 5), complex), np.zeros((0, 4, 5))]
)
def test_arrays_that_are_no_images(tmp_path, given):
    np.save(tmp_path / "x.npy", given)
    with pytest.raises(InputError, match=r"x\.npy: expected images of shape"):
        load_frames(tmp_path / "x.npy")


def test_pickled_objects_are_not_opened(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match="cannot be read"):
        load_frames(tmp_path / "x.npy")


@pytest.mark.parametrize("name", ["angles_deg", "angles", "tilts", "tilt_angles"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_names_of_angles(tmp_path, name, save):
    save(tmp_path / "x.npz", stack=DATA, **{name: samples.ANGLES[:, None]})
    raw = load_frames(tmp_path / "x.npz")
    np.testing.assert_array_equal(raw.images, DATA)
    np.testing.assert_array_equal(raw.angles_deg, samples.ANGLES)
    assert raw.sources["angles"] == f"{name} in x.npz"


def test_images_are_known_by_their_name_among_others(tmp_path):
    np.savez(
        tmp_path / "x.npz", images=DATA, mask=DATA > 0, other=DATA + 1, angles=samples.ANGLES[:3], pixel_size_nm=[-2.0]
    )
    raw = load_frames(tmp_path / "x.npz")
    np.testing.assert_array_equal(raw.images, DATA)
    assert raw.angles_deg is None
    assert raw.pixel_size_nm is None


def test_an_archive_without_images_says_what_is_in_it(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.zeros(3), b=np.zeros((2, 2)))
    with pytest.raises(InputError, match=r"expected one array .* got a \(3,\), b \(2, 2\); save it with numpy\.savez"):
        load_frames(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=DATA, b=DATA)
    with pytest.raises(InputError, match="or one named images"):
        load_frames(tmp_path / "y.npz")
