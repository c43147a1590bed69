import struct

import mrcfile
import numpy as np
import pytest
from mrcfile.dtypes import get_ext_header_dtype

from tiltfield.errors import InputError
from tiltfield.io import load, load_frames, read_volume, write_stack
from tiltfield.series import Volume

N, ROWS, COLS = 5, 6, 7
ANGLES = np.linspace(-40, 40, N)


def values(dtype=np.int16, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 200, (N, ROWS, COLS)).astype(dtype)


def header(mode, order="<", *, stamp=b"MAP ", extended=0, cell=33.6, **patch):
    """Pack an MRC header from the published table, by hand."""
    raw = bytearray(1024)
    struct.pack_into(order + "10i", raw, 0, COLS, ROWS, N, mode, 0, 0, 0, COLS, ROWS, N)
    struct.pack_into(order + "6f", raw, 40, cell * COLS, cell * ROWS, cell * N, 90, 90, 90)
    struct.pack_into(order + "3i", raw, 64, 1, 2, 3)
    struct.pack_into(order + "2i", raw, 88, 0, extended)
    raw[208:212] = stamp
    if stamp.strip(b"\0"):
        raw[212:214] = b"DD" if order == "<" else b"\x11\x11"
    for place, content in patch.items():
        at = int(place.removeprefix("at"))
        raw[at : at + len(content)] = content
    return bytes(raw)


def write(path, data, head, extended=b""):
    path.write_bytes(head + extended + data.tobytes())
    return path


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("stamp", [b"MAP ", bytes(4)])
@pytest.mark.parametrize(("mode", "kind"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_modes_and_byte_orders(tmp_path, mode, kind, order, stamp):
    data = (values() // 2).astype(order + kind)
    raw = load_frames(write(tmp_path / "x.mrc", data, header(mode, order, stamp=stamp)))
    np.testing.assert_array_equal(raw.images, data)
    assert raw.images.dtype.isnative
    assert raw.pixel_size_nm == pytest.approx(3.36)


@pytest.mark.parametrize(
    ("patch", "kind"),
    [
        ({"at152": b"IMOD" + struct.pack("<i", 1)}, "i1"),
        ({"at152": b"IMOD" + struct.pack("<i", 0)}, "u1"),
        ({"at76": struct.pack("<3f", 0, 199, 100)}, "u1"),
        ({}, "i1"),
    ],
)
def test_bytes_are_signed_or_not_as_the_header_says(tmp_path, patch, kind):
    data = values(np.uint8)
    raw = load_frames(write(tmp_path / "x.mrc", data, header(0, **patch)))
    np.testing.assert_array_equal(raw.images, data.view(kind))


@pytest.mark.parametrize("order", "<>")
def test_old_fei_header(tmp_path, order):
    records = np.zeros((1024, 32), order + "f4")
    records[:N, 0], records[:N, 11] = ANGLES, 3.36e-9
    head = header(1, order, stamp=bytes(4), extended=131072, cell=1.0, at128=struct.pack(order + "2h", 0, 32))
    raw = load_frames(write(tmp_path / "x.mrc", values(order + "i2"), head, records.tobytes()))
    np.testing.assert_allclose(raw.angles_deg, ANGLES)
    assert raw.pixel_size_nm == pytest.approx(3.36)
    assert raw.sources["angles"] == "extended header of x.mrc"


def test_agard_header_skips_its_integers(tmp_path):
    records = np.zeros((N, 5), "<f4")
    records[:, 2] = ANGLES
    head = header(1, extended=records.nbytes, at128=struct.pack("<2h", 2, 3), at104=b"AGAR")
    np.testing.assert_allclose(
        load_frames(write(tmp_path / "x.st", values(), head, records.tobytes())).angles_deg, ANGLES
    )


@pytest.mark.parametrize("kind", [b"FEI1", b"FEI2"])
def test_new_fei_header(tmp_path, kind):
    dtype = get_ext_header_dtype(kind, "<")
    records = np.zeros(N, dtype)
    records["Metadata size"], records["Alpha tilt"], records["Pixel size X"] = dtype.itemsize, ANGLES, 2.5e-10
    head = header(1, extended=records.nbytes, cell=0.0, at104=kind)
    raw = load_frames(write(tmp_path / "x.mrc", values(), head, records.tobytes()))
    np.testing.assert_allclose(raw.angles_deg, ANGLES)
    assert raw.pixel_size_nm == pytest.approx(0.25)


@pytest.mark.parametrize("named", [b"SERI", bytes(4)])
def test_serialem_header(tmp_path, named):
    records = np.zeros((N, 7), "<i2")
    records[:, 0] = np.round(ANGLES * 100)
    head = header(1, extended=records.nbytes, at104=named, at128=struct.pack("<2h", 14, 61))
    np.testing.assert_allclose(
        load_frames(write(tmp_path / "x.mrc", values(), head, records.tobytes())).angles_deg, ANGLES
    )


@pytest.mark.parametrize("cell", [0.0, 1.0, float("nan"), -3.0])
def test_a_meaningless_voxel_size_is_none(tmp_path, cell):
    assert load_frames(write(tmp_path / "x.mrc", values(), header(1, cell=cell))).pixel_size_nm is None


def test_oblong_pixels_are_reported(tmp_path):
    raw = load_frames(write(tmp_path / "x.mrc", values(), header(1, at44=struct.pack("<f", 99.0))))
    assert "not square" in raw.sources["warning pixel size"]


def test_two_pixel_sizes_are_reported(tmp_path):
    records = np.full((N, 32), 1e-9, "<f4")
    records[:, 0] = ANGLES
    head = header(1, extended=records.nbytes, at128=struct.pack("<2h", 0, 32))
    raw = load_frames(write(tmp_path / "x.mrc", values(), head, records.tobytes()))
    assert raw.pixel_size_nm == pytest.approx(3.36)
    assert "3.36 nm, the extended header 1 nm" in raw.sources["warning pixel size"]


def test_a_permuted_volume_comes_out_as_zyx(tmp_path):
    data = values(np.float32)
    path = write(tmp_path / "x.mrc", data, header(2, at64=struct.pack("<3i", 3, 2, 1)))  # columns are z, sections are x
    np.testing.assert_array_equal(read_volume(path).data, data.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"at12": struct.pack("<i", 4)}, r"mode 4 \(complex\)"),
        ({"at12": struct.pack("<i", 77)}, "expected an MRC header"),
        ({"at0": struct.pack("<3i", 2**19, 2**19, 2**19)}, "GB of memory|need .* bytes"),
        ({"at0": struct.pack("<3i", -1, 5, 5)}, "expected an MRC header"),
        ({"at8": struct.pack("<i", N + 1)}, "cut short"),
        ({"at8": struct.pack("<i", N - 2)}, "header is damaged or the stack was still being written"),
        ({"at92": struct.pack("<i", -4)}, "expected an MRC header"),
        ({"at64": struct.pack("<3i", 1, 1, 9)}, "expected an MRC header"),
    ],
)
def test_headers_that_make_no_sense(tmp_path, patch, message):
    with pytest.raises(InputError, match=message):
        load_frames(write(tmp_path / "x.mrc", values(), header(1, **patch)))


def test_a_few_bytes_too_many_are_reported(tmp_path):
    path = write(tmp_path / "x.mrc", values(), header(1))
    path.write_bytes(path.read_bytes() + bytes(10))
    assert "10 bytes" in load_frames(path).sources["warning size"]


def test_a_file_by_mrcfile(tmp_path):
    data = values(np.float32)
    with mrcfile.new(tmp_path / "x.mrc", data) as mrc:
        mrc.set_image_stack()
        mrc.voxel_size = 7.0
    raw = load_frames(tmp_path / "x.mrc")
    np.testing.assert_array_equal(raw.images, data)
    assert raw.pixel_size_nm == pytest.approx(0.7)


@pytest.mark.parametrize("size", [None, 0.1, 3.36])
def test_a_written_stack_is_sound(tmp_path, size, capsys):
    data = values(np.float32)
    path = write_stack(data, tmp_path / "x.mrc", size)
    assert mrcfile.validate(path), capsys.readouterr().out
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data, data)
        assert mrc.is_image_stack()
        assert mrc.get_labels()[0].startswith("tiltfield 0")
        assert mrc.voxel_size.x == pytest.approx(1.0 if size is None else 10 * size)
        assert (mrc.header.mapc, mrc.header.mapr, mrc.header.maps) == (1, 2, 3)
    assert load_frames(path).pixel_size_nm == (None if size is None else pytest.approx(size))


def test_a_written_volume_is_a_volume(tmp_path):
    with mrcfile.open(Volume(values(), 2.0).save(tmp_path / "v.mrc")) as mrc:
        assert mrc.is_volume()
        assert mrc.voxel_size.z == pytest.approx(20)


def test_writing_replaces_whole_files_only(tmp_path, monkeypatch):
    path = write_stack(values(np.float32), tmp_path / "x.mrc")
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InputError, match=r"cannot write .*No space left"):
        write_stack(values(np.float32, 1), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["x.mrc"]


@pytest.mark.parametrize(
    ("data", "message"), [(np.zeros((3, 4)), "three dimensions"), (np.full((2, 2, 2), np.nan), "NaN")]
)
def test_only_stacks_of_numbers_are_written(tmp_path, data, message):
    with pytest.raises(InputError, match=message):
        write_stack(data, tmp_path / "x.mrc")
    assert not any(tmp_path.iterdir())


def test_measured_fei_stack(shared_data):
    path = shared_data("needle/HAADF.mrc")
    series = load(path)
    grey = np.fromfile(path, "<i2", offset=1024 + 131072).reshape(77, 256, 256)
    np.testing.assert_allclose(series.angles_deg, np.arange(-76, 77, 2))
    assert series.sources["angles"] == "HAADF.rawtlt, beside the stack"
    assert "warning angles" not in series.sources
    assert series.pixel_size_nm == pytest.approx(3.36)
    assert series.quantum == 1.0
    assert series.valid is None
    np.testing.assert_array_equal(series.images, grey)


def test_measured_serialem_pair(shared_data):
    path = shared_data("repeat_pairs/test_000.mrc")
    grey = np.fromfile(path, "<i2", offset=1024 + 5120).reshape(2, 1024, 1024)
    for given in (path, path.with_name("test_000.mrc.mdoc")):
        raw = load_frames(given)
        np.testing.assert_array_equal(raw.images, grey)
        np.testing.assert_allclose(raw.angles_deg, [-0.000488, -0.000488])
        assert raw.pixel_size_nm == pytest.approx(0.788)
    assert "calls its stack test0.mrc" in raw.sources["note"]
    with pytest.raises(InputError, match="at least 3 tilts, got 2") as info:
        load(path)
    assert "tilt angles are equal" in str(info.value)
