"""What other programs' libraries read of exported volumes: values, sizes, places, words."""

import io

import mrcfile
import numpy as np
import pytest
import tifffile
import torch
import zarr
from ome_zarr_models.common.omero import Omero
from ome_zarr_models.v05 import Image as OmeImage

from tiltfield.config import ExportConfig
from tiltfield.errors import InputError
from tiltfield.export import WRITERS, export, imagej, make_image, ome_zarr, outputs
from tiltfield.export.image import turned, turned_origin
from tiltfield.export.ome_zarr import halved, pyramid
from tiltfield.geometry import centred, detector_coordinate
from tiltfield.io import read_volume
from tiltfield.io.mrc import TURNED
from tiltfield.observe import Observer
from tiltfield.series import Volume

NM = 0.75
SHAPE = (6, 9, 11)


@pytest.fixture
def volume():
    return Volume(np.random.default_rng(0).random(SHAPE, np.float32), NM)


def written(volume, folder, kind, origin=None, about=("tiltfield reconstruct cell.st",), **settings):
    config = ExportConfig(format=kind, **settings)
    image = make_image(volume, config, origin, about)
    files = outputs(folder / "volume", config)
    export(image, files, Observer())
    return files[kind]


def test_names_follow_the_formats(tmp_path):
    config = ExportConfig(format=("mrc", "ome-zarr", "tiff"))
    assert [p.name for p in outputs(tmp_path / "a.b", config).values()] == ["a.b.rec", "a.b.ome.zarr", "a.b.tif"]
    for kind, writer in WRITERS.items():
        for ending in writer.endings:
            assert outputs(tmp_path / f"x{ending}", ExportConfig()) == {kind: tmp_path / f"x{ending}"}
    with pytest.raises(InputError, match=r"x\.tif ends as tiff, but --format says mrc"):
        outputs(tmp_path / "x.tif", ExportConfig(format="mrc"))
    with pytest.raises(InputError, match=r"x\.tif: tiff does not hold int8"):
        outputs(tmp_path / "x.tif", ExportConfig(dtype="int8"))


# ---- orientation ---------------------------------------------------------------------------------------------------


def test_turning_is_undone_by_rotx(volume):
    """`clip rotx` rotates by -90° about x: (x, y, z) goes to (x, z, -y)."""
    back = turned(volume.data).transpose(1, 0, 2)[::-1]
    np.testing.assert_array_equal(back, volume.data)


def test_turning_keeps_handedness():
    index = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    corner = {
        name: index[place] for name, place in {"o": (0, 0, 0), "x": (0, 0, 1), "y": (0, 1, 0), "z": (1, 0, 0)}.items()
    }

    def triple(volume):
        at = {name: np.argwhere(volume == value)[0][::-1] for name, value in corner.items()}  # (x, y, z) of the file
        return np.linalg.det([at[axis] - at["o"] for axis in "xyz"])

    assert triple(turned(index)) == triple(index) == 1
    assert triple(index.transpose(1, 0, 2)) == -1  # a bare exchange of axes would mirror


@pytest.mark.parametrize("theta", [-0.9, 0.3])
def test_a_turned_slice_is_that_of_imods_tilt(theta):
    """IMOD's tilt projects (x, row) to x cos θ - row sin θ: the rows of its slices run against our z."""
    n = (7, 3, 5)
    marked = np.zeros(n, np.float32)
    marked[5, 1, 3] = 1
    z, x = (float(centred(size)[i]) for size, i in ((n[0], 5), (n[2], 3)))
    ours = float(detector_coordinate(torch.tensor(x), torch.tensor(z), torch.tensor(theta)))
    section, row, col = np.argwhere(turned(marked))[0]
    assert section == 1
    row, col = float(centred(n[0])[row]), float(centred(n[2])[col])
    assert col * np.cos(theta) - row * np.sin(theta) == pytest.approx(ours)


def test_the_origin_turns_with_the_volume():
    assert turned_origin((1.0, 2.0, -3.0), 7, 1.0) == (1.0, -3.0, 2.0)  # z from -3 to 3 becomes rows from -3 to 3
    assert turned_origin((0.0, 0.0, 10.0), 3, 0.5) == (0.0, -11.0, 0.0)


# ---- MRC -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orient", ["xyz", "xzy"])
@pytest.mark.parametrize(("dtype", "mode"), [("float32", 2), ("int8", 0), ("int16", 1), ("uint16", 6)])
def test_mrc(volume, tmp_path, dtype, mode, orient):
    path = written(volume, tmp_path, "mrc", dtype=dtype, orient=orient)
    report = io.StringIO()
    assert mrcfile.validate(path, print_file=report), report.getvalue()
    with mrcfile.open(path) as mrc:
        assert mrc.is_volume()
        assert int(mrc.header.mode) == mode
        assert [int(mrc.header[k]) for k in ("mapc", "mapr", "maps")] == [1, 2, 3]
        assert [float(mrc.voxel_size[a]) for a in "xyz"] == pytest.approx([10 * NM] * 3)
        depth = -(SHAPE[0] - 1) / 2 * 10 * NM
        place = [0, 0, depth] if orient == "xyz" else [0, depth, 0]
        assert [float(mrc.header.origin[a]) for a in "xyz"] == pytest.approx(place)
        expected = volume.data if orient == "xyz" else turned(volume.data)
        assert mrc.data.shape == expected.shape
        assert np.corrcoef(mrc.data.ravel(), expected.ravel())[0, 1] > 0.999
        labels = mrc.get_labels()
        assert labels[0].startswith("tiltfield ")
        assert labels[1] == "tiltfield reconstruct cell.st"
        assert (labels[2:3] or [""])[0].startswith("density = ") == (dtype != "float32")
        assert (labels[-1] == TURNED) == (orient == "xzy")
    np.testing.assert_array_equal(read_volume(path).data.shape, volume.data.shape)
    assert np.corrcoef(read_volume(path).data.ravel(), volume.data.ravel())[0, 1] > 0.999


def test_signed_bytes_show_it_in_their_range(volume, tmp_path):
    """IMOD takes mode 0 for signed if the header's range begins below 0 and ends below 128."""
    with mrcfile.open(written(volume, tmp_path, "mrc", dtype="int8")) as mrc:
        assert float(mrc.header.dmin) == -127
        assert float(mrc.header.dmax) == 127


# ---- TIFF ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int16", "uint16"])
def test_tiff_is_a_hyperstack_with_spacing(volume, tmp_path, dtype):
    with tifffile.TiffFile(written(volume, tmp_path, "tiff", dtype=dtype)) as file:
        found, page = file.imagej_metadata, file.pages[0]
        assert file.is_imagej
        assert (found["slices"], found["images"], found["unit"]) == (SHAPE[0], SHAPE[0], "nm")
        assert found["spacing"] == pytest.approx(NM)
        assert [1 / r for r in page.resolution] == pytest.approx([NM, NM])
        assert found["Info"].splitlines()[0] == "tiltfield reconstruct cell.st"
        values = file.asarray()
    assert values.dtype == np.dtype(dtype)
    assert np.corrcoef(values.ravel(), volume.data.ravel())[0, 1] > 0.999


def test_a_large_tiff_has_one_directory_and_all_planes(volume, tmp_path, monkeypatch):
    monkeypatch.setattr(imagej, "LARGEST", 100)
    with tifffile.TiffFile(written(volume, tmp_path, "tiff")) as file:
        assert (file.is_bigtiff, len(file.pages)) == (False, 1)
        assert file.imagej_metadata["images"] == SHAPE[0]
        np.testing.assert_array_equal(file.asarray(), volume.data)


def test_narrow_images_are_not_taken_for_colours(tmp_path):
    data = np.random.default_rng(1).random((5, 7, 3), np.float32)
    with tifffile.TiffFile(written(Volume(data), tmp_path, "tiff")) as file:
        assert "unit" not in file.imagej_metadata
        np.testing.assert_array_equal(file.asarray(), data)


# ---- OME-Zarr ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_ome_zarr_is_valid_and_holds_the_volume(volume, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(ome_zarr, "CHUNK", (2, 4, 4))
    monkeypatch.setattr(ome_zarr, "SMALLEST", 4)
    group = zarr.open_group(written(volume, tmp_path, "ome-zarr", dtype=dtype), mode="r")
    multiscale = OmeImage.from_zarr(group).ome_attributes.multiscales[0]
    assert [(a.name, a.unit) for a in multiscale.axes] == [(axis, "nanometer") for axis in "zyx"]
    arrays = [group[d.path] for d in multiscale.datasets]
    assert [a.shape for a in arrays] == [(6, 9, 11), (3, 5, 6), (2, 3, 3)]
    assert arrays[0].chunks == (2, 4, 4)
    values = arrays[0][:]
    assert values.dtype == np.dtype(dtype)
    assert np.corrcoef(values.ravel(), volume.data.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(arrays[1][:2, :4, :5], halved(values[:4, :8, :10]))
    assert group.attrs["tiltfield"]["about"][0] == "tiltfield reconstruct cell.st"


def test_levels_lie_where_their_voxels_are(tmp_path, monkeypatch):
    """A ramp along each axis is its own coordinate: that of a coarse voxel is where its transform puts it."""
    monkeypatch.setattr(ome_zarr, "SMALLEST", 4)
    axes = np.meshgrid(*(np.arange(n, dtype=np.float32) * NM for n in (8, 8, 16)), indexing="ij")
    for axis, ramp in enumerate(axes):
        path = written(Volume(ramp, NM), tmp_path, "ome-zarr", origin=(0.0, 0.0, 0.0))
        group = zarr.open_group(path, mode="r")
        for dataset in OmeImage.from_zarr(group).ome_attributes.multiscales[0].datasets:
            scale, translation = (getattr(t, t.type) for t in dataset.coordinateTransformations)
            array = np.moveaxis(group[dataset.path][:], axis, 0)
            np.testing.assert_allclose(array[:, 0, 0], np.arange(len(array)) * scale[axis] + translation[axis])


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint16"])
def test_ome_zarr_says_how_it_is_to_be_shown(tmp_path, dtype):
    """napari would take the contrast of the first section, which here holds nothing."""
    data = np.random.default_rng(0).random((40, 50, 60), np.float32)
    data[0] = 0
    group = zarr.open_group(written(Volume(data, NM), tmp_path, "ome-zarr", dtype=dtype), mode="r")
    (channel,) = Omero.model_validate(group.attrs["ome"]["omero"]).channels
    window, values = channel.window, group["0"][:].astype(float)
    assert (window.min, window.max) == (values.min(), values.max())
    assert (window.start, window.end) == pytest.approx(np.percentile(values, (0.1, 99.9)))


def test_halving_by_hand():
    np.testing.assert_array_equal(halved(np.arange(8, dtype=np.float32).reshape(2, 2, 2)), [[[3.5]]])
    np.testing.assert_array_equal(halved(np.array([[[0, 2, 5]]], np.uint8)), [[[1, 5]]])
    assert pyramid((100, 300, 200)) == [(100, 300, 200), (50, 150, 100), (25, 75, 50)]
    assert pyramid((1, 300, 300)) == [(1, 300, 300)]


def test_a_volume_of_unknown_scale_has_no_unit(tmp_path):
    group = zarr.open_group(written(Volume(np.ones(SHAPE, np.float32)), tmp_path, "ome-zarr"), mode="r")
    assert all(a.unit is None for a in OmeImage.from_zarr(group).ome_attributes.multiscales[0].axes)


def test_a_zarr_is_replaced_whole_and_other_folders_are_left_alone(volume, tmp_path, monkeypatch):
    path = written(volume, tmp_path, "ome-zarr")
    (path / "stale").write_text("")
    assert written(volume, tmp_path, "ome-zarr") == path
    assert not (path / "stale").exists()
    monkeypatch.setattr(ome_zarr, "_attributes", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        written(volume, tmp_path, "ome-zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["volume.ome.zarr"]
    assert OmeImage.from_zarr(zarr.open_group(path, mode="r"))
    (path / "zarr.json").unlink()
    monkeypatch.undo()
    with pytest.raises(InputError, match="no Zarr"):
        written(volume, tmp_path, "ome-zarr")


# ---- all -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", list(WRITERS))
def test_slab_by_slab_gives_the_same(volume, tmp_path, monkeypatch, kind):
    def content(folder):
        folder.mkdir()
        path = written(volume, folder, kind, dtype="int16", orient="xzy")
        return {p.relative_to(path): p.read_bytes() for p in (path, *path.rglob("*")) if p.is_file()}

    whole = content(tmp_path / "a")
    monkeypatch.setattr("tiltfield.io.slabs.SLAB", 1)
    assert content(tmp_path / "b") == whole


@pytest.mark.parametrize("kind", list(WRITERS))
def test_a_missing_folder_is_an_input_error(volume, tmp_path, kind):
    with pytest.raises(InputError, match="cannot write"):
        written(volume, tmp_path / "none" / "deeper", kind)
