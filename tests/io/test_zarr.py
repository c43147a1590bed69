import json
import shutil

import numpy as np
import pytest
import samples
import zarr
from zarr.codecs import BloscCodec

from tiltfield.errors import InputError
from tiltfield.io import load_frames, read_volume

DATA = samples.make(dtype="u2")


def ome(path, data=DATA, axes="zyx", changes=None, **options):
    """An OME-Zarr 0.5 image with one level; `changes` go into its multiscales."""
    group = zarr.create_group(path, zarr_format=3)
    array = group.create_array(
        "0", shape=data.shape, dtype=data.dtype, chunks=(1,) * (data.ndim - 2) + data.shape[-2:], **options
    )
    array[...] = data
    units = {"x": {"unit": "micrometer"}, "y": {"unit": "micrometer"}}
    named = [{"name": name, "type": "space"} | units.get(name, {}) for name in axes]
    scale = [{"type": "scale", "scale": [1.0] * (data.ndim - 2) + [5e-4, 5e-4]}]
    image = {"axes": named, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image | (changes or {})]}
    return path


@pytest.mark.parametrize(
    "options", [{}, {"shards": samples.make().shape}, {"compressors": BloscCodec()}, {"compressors": None}]
)
def test_shards_and_codecs(tmp_path, options):
    raw = load_frames(ome(tmp_path / "x.zarr", **options))
    np.testing.assert_array_equal(raw.images, DATA)
    assert raw.pixel_size_nm == pytest.approx(0.5)
    assert "warning chunks" not in raw.sources


def test_an_axis_of_degrees_gives_the_tilts(tmp_path):
    axes = [{"name": "tilt", "unit": "degree"}, {"name": "y", "unit": "nanometer"}, {"name": "x", "unit": "nanometer"}]
    own = [{"type": "scale", "scale": [10.0, 0.25, 0.25]}, {"type": "translation", "translation": [-30.0, 0, 0]}]
    common = [{"type": "scale", "scale": [2.0, 2.0, 2.0]}]
    changes = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": own}]}
    raw = load_frames(ome(tmp_path / "x.zarr", changes=changes | {"coordinateTransformations": common}))
    np.testing.assert_allclose(raw.angles_deg, samples.ANGLES)
    assert raw.pixel_size_nm == pytest.approx(0.5)


@pytest.mark.parametrize(("axes", "lengths"), [("tczyx", (1, 1)), ("czyx", (1,)), ("tzyx", (1,))])
def test_axes_of_one_channel_and_time_do_not_count(tmp_path, axes, lengths):
    raw = load_frames(ome(tmp_path / "x.zarr", DATA.reshape(*lengths, *DATA.shape), axes))
    np.testing.assert_array_equal(raw.images, DATA)


def test_a_single_image(tmp_path):
    np.testing.assert_array_equal(load_frames(ome(tmp_path / "x.zarr", DATA[0], "yx")).images, DATA[:1])


def test_channels_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"got axes c z y x of lengths \(2, 7, 24, 20\).* take one channel"):
        load_frames(ome(tmp_path / "x.zarr", np.stack([DATA, DATA]), "czyx"))


@pytest.mark.parametrize("name", ["x.zarr", "x.zspy"])
def test_a_store_in_an_archive(tmp_path, name):
    folder = ome(tmp_path / "store") if name == "x.zarr" else zspy(tmp_path)
    shutil.make_archive(str(tmp_path / "packed"), "zip", folder)
    (tmp_path / "packed.zip").rename(tmp_path / f"packed_{name}")
    raw = load_frames(tmp_path / f"packed_{name}")
    np.testing.assert_array_equal(raw.images, DATA)
    assert raw.pixel_size_nm == pytest.approx(0.5)


def zspy(folder):
    pytest.importorskip("rsciio")
    return samples.zspy(folder, DATA)


def test_a_chunk_that_is_not_there_is_told(tmp_path):
    path = ome(tmp_path / "x.zarr")
    shutil.rmtree(path / "0" / "c" / "3")
    raw = load_frames(path)
    assert "1 of 7 chunks of the images are not there" in raw.sources["warning chunks"]
    shutil.rmtree(path / "0" / "c")
    with pytest.raises(InputError, match="none of the 7 chunks of 0 is there"):
        load_frames(path)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_a_cut_chunk_of_blosc_is_seen(tmp_path, keep):
    """The decoder reads on beyond its end, and fills the image with what lies there in memory."""
    path = ome(tmp_path / "x.zarr", compressors=BloscCodec())
    chunk = path / "0" / "c" / "3" / "0" / "0"
    chunk.write_bytes(chunk.read_bytes()[:keep])
    with pytest.raises(InputError, match="is damaged or cut short"):
        load_frames(path)


def test_an_array_larger_than_its_store_is_refused_before_it_is_made(tmp_path):
    path = ome(tmp_path / "x.zarr")
    facts = json.loads((path / "0" / "zarr.json").read_text())
    facts["shape"] = [700, 2400, 2000]
    (path / "0" / "zarr.json").write_text(json.dumps(facts))
    with pytest.raises(InputError, match=r"need 6720000000 bytes, the file holds|GB of memory"):
        load_frames(path)


def test_stores_of_something_else(tmp_path):
    zarr.create_group(tmp_path / "a.zarr").create_group("measured")
    with pytest.raises(InputError, match=r"expected an OME-Zarr image .* got \['measured'\]"):
        load_frames(tmp_path / "a.zarr")
    with pytest.raises(InputError, match="a bare Zarr array says nothing of its axes"):
        load_frames(ome(tmp_path / "x.zarr") / "0")


def test_a_volume_that_was_exported_can_be_read_again(tmp_path):
    volume = read_volume(ome(tmp_path / "x.ome.zarr", DATA.astype("f4")))
    np.testing.assert_array_equal(volume.data, DATA.astype("f4"))
    assert volume.voxel_size_nm == pytest.approx(0.5)
