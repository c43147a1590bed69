"""Virions from files: assemblies, the density of atoms, membrane and core, maps, and what is refused."""

import gzip
import math
import sys

import numpy as np
import pytest
import yaml

from tiltfield.config import SimulateConfig
from tiltfield.errors import InputError
from tiltfield.io import write_volume
from tiltfield.series import Volume
from tiltfield.simulate import simulate
from tiltfield.simulate.specimen import make_specimen
from tiltfield.simulate.structure import SIGMA, Atoms, _radii, atom_density, inner_face, read_atoms, read_virion
from tiltfield.simulate.virion import CORE, FLUID, LEAFLET, TAILS, MapVirion

REMARK = """REMARK 350 BIOMOLECULE: 1
REMARK 350 APPLY THE FOLLOWING TO CHAINS: A
REMARK 350   BIOMT1   1  1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   1  0.000000  1.000000  0.000000        0.00000
REMARK 350   BIOMT3   1  0.000000  0.000000  1.000000        0.00000
REMARK 350   BIOMT1   2 -1.000000  0.000000  0.000000        0.00000
REMARK 350   BIOMT2   2  0.000000 -1.000000  0.000000        0.00000
REMARK 350   BIOMT3   2  0.000000  0.000000  1.000000        5.00000
"""
ATOM = "ATOM  {:5d}  {:<3s} ALA A{:4d}    {:8.3f}{:8.3f}{:8.3f}  1.00  0.00           {:>2s}\n"
WATER = "HETATM    9  O   HOH A   9      90.000  90.000  90.000  1.00  0.00           O\n"


def pdb(positions, remark=REMARK):
    lines = (ATOM.format(i + 1, "CA", i + 1, *p, "C") for i, p in enumerate(positions))
    return remark + "".join(lines) + WATER + "END\n"


def ball(n, seed, low=0.0, high=60.0):
    """Points between two radii, evenly."""
    rng = np.random.default_rng(seed)
    direction = rng.normal(size=(n, 3))
    radius = np.cbrt(rng.uniform(low**3, high**3, n))
    return direction / np.linalg.norm(direction, axis=1, keepdims=True) * radius[:, None]


@pytest.fixture
def gemmi():
    return pytest.importorskip("gemmi", reason="needs the package gemmi (extra: structure)")


def test_the_assembly_is_put_together(gemmi, tmp_path):
    path = tmp_path / "two.pdb"
    path.write_text(pdb([(10, 20, 30), (1, 2, 3)]))
    atoms = read_atoms(path)
    expected = [(30, 20, 10), (3, 2, 1), (35, -20, -10), (8, -2, -1)]  # (z, y, x)
    np.testing.assert_allclose(atoms.positions, expected, atol=1e-3)
    np.testing.assert_array_equal(atoms.weights, 6)


def test_plain_packed_and_mmcif_are_one(gemmi, tmp_path):
    path = tmp_path / "two.pdb"
    path.write_text(pdb(ball(20, 0)))
    packed, cif = tmp_path / "two.pdb.gz", tmp_path / "two.cif"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    structure = gemmi.read_structure(str(path))
    structure.setup_entities()
    structure.make_mmcif_document().write_file(str(cif))
    expected = read_atoms(path).positions
    for other in (packed, cif):
        np.testing.assert_allclose(read_atoms(other).positions, expected, atol=1e-3)


def test_without_an_assembly_the_atoms_are_those_of_the_file(gemmi, tmp_path):
    path = tmp_path / "one.pdb"
    path.write_text(pdb([(1, 2, 3)], remark=""))
    np.testing.assert_allclose(read_atoms(path).positions, [(3, 2, 1)], atol=1e-3)


@pytest.mark.parametrize("resolution", [8.0, 15.0, 30.0])
def test_atoms_become_gaussians_of_the_resolution(resolution):
    # mass is kept, and the second moment is that of the atoms and of the Gaussian together
    positions, weights = ball(3000, 1), np.random.default_rng(2).integers(6, 17, 3000).astype(float)
    density = atom_density(Atoms(positions, weights), resolution)
    centre = np.average(positions, axis=0, weights=weights)
    assert density.sum() == pytest.approx(weights.sum(), rel=1e-6)
    square = (density * (_radii(len(density)) * resolution / 3) ** 2).sum() / weights.sum()
    atoms = np.average(((positions - centre) ** 2).sum(axis=1), weights=weights)
    assert square - atoms == pytest.approx(3 * (SIGMA * resolution) ** 2, rel=0.1)


def test_the_inner_face_of_a_shell_by_hand():
    radii = _radii(81) * 5.0
    protein = np.where((radii > 120) & (radii < 170), 1.0, 0.0)
    assert inner_face(protein, radii) == pytest.approx(120, abs=3)
    assert inner_face(np.where(radii < 100, 1.0, 0.0), radii) is None


def test_membrane_and_core_lie_below_the_protein(gemmi, tmp_path):
    path = tmp_path / "shell.pdb"
    path.write_text(pdb(ball(9000, 3, 118, 150), remark=""))
    virion = read_virion(path, 15.0)
    density, radii = virion.channels[0], _radii(virion.channels.shape[-1]) * 5
    at = {r: density[np.abs(radii - r) < 2.5].mean() for r in (10, 50, 71, 80, 97, 113)}
    expected = {10: CORE, 50: CORE, 71: FLUID, 80: LEAFLET, 97: TAILS, 113: LEAFLET}
    assert at == {r: pytest.approx(v, abs=0.15) for r, v in expected.items()}
    assert (virion.channels[1][radii < 112] == 1).all()
    assert virion.radius_nm == pytest.approx(15.5, abs=0.8)


def test_a_map_is_centred_scaled_and_measured(tmp_path):
    z, y, x = np.ix_(*(np.arange(n) - c for n, c in ((50, 22.0), (54, 30.0), (48, 24.0))))
    ball = 3.0 + 40 / (1 + np.exp((np.sqrt(z**2 + y**2 + x**2) - 15) / 0.5))
    path = write_volume(Volume((ball + np.random.default_rng(1).normal(0, 1, ball.shape)).astype(np.float32), 0.6),
                        tmp_path / "ball.mrc")  # fmt: skip
    virion = read_virion(path, 15.0)
    assert virion.radius_nm == pytest.approx(9.0, abs=0.9)
    n = virion.channels.shape[-1]
    assert virion.channels.shape == (2, n, n, n)
    assert n % 2 == 1
    density, radii = virion.channels[0], _radii(n)
    assert density[radii < 10].mean() == pytest.approx(0.95, abs=0.05)
    assert (virion.channels[1] == (radii <= 15)).mean() > 0.99


def test_a_fine_map_is_brought_to_the_resolution(tmp_path):
    radii = _radii(61)
    path = write_volume(Volume((radii < 20).astype(np.float32), 0.2), tmp_path / "fine.mrc")
    virion = read_virion(path, 15.0)
    assert virion.channels.shape[-1] < 35
    assert virion.radius_nm == pytest.approx(4.0, abs=0.9)


# --- what is refused


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gemmi", None)
    path = tmp_path / "one.pdb"
    path.write_text(pdb([(1, 2, 3)]))
    with pytest.raises(InputError, match=r"pip install 'tiltfield\[structure\]'"):
        read_virion(path, 15.0)


@pytest.mark.parametrize("content", ["", "no atoms here\n", "data_x\n_cell.length_a"])
@pytest.mark.parametrize("name", ["x.pdb", "x.cif", "x.txt", "x.pdb.gz"])
def test_a_file_without_atoms_is_refused(gemmi, tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=r"PDB or mmCIF"):
        read_virion(tmp_path / name, 15.0)


def test_maps_that_cannot_be_used_are_refused(tmp_path):
    for suffix in (".map.gz", ".mrc.gz"):
        (tmp_path / f"x{suffix}").write_bytes(gzip.compress(b"x"))
        with pytest.raises(InputError, match="gunzip"):
            read_virion(tmp_path / f"x{suffix}", 15.0)
    ball = (_radii(21) < 5).astype(np.float32)
    with pytest.raises(InputError, match="voxel size"):
        read_virion(write_volume(Volume(ball), tmp_path / "sizeless.mrc"), 15.0)
    with pytest.raises(InputError, match="invert"):
        read_virion(write_volume(Volume(-ball, 1.0), tmp_path / "dark.mrc"), 15.0)


def test_a_particle_too_large_for_the_resolution_is_refused():
    with pytest.raises(InputError, match="larger --resolution-a"):
        atom_density(Atoms(np.array([(0.0, 0, 0), (5000, 0, 0)]), np.ones(2)), 15.0)


def test_a_virion_belongs_to_the_paper_cell(tmp_path):
    (tmp_path / "x.pdb").write_text(pdb([(1, 2, 3)]))
    with pytest.raises(InputError, match="--cell paper"):
        simulate(SimulateConfig(virion=tmp_path / "x.pdb"))
    with pytest.raises(InputError, match="expected a file"):
        SimulateConfig.parse({"virion": str(tmp_path / "none.pdb")}, "settings")


# --- the Zika virion


@pytest.fixture(scope="module")
def zika_file(shared_data):
    pytest.importorskip("gemmi", reason="needs the package gemmi (extra: structure)")
    return shared_data("zikv/5ire.pdb.gz")


@pytest.fixture(scope="module")
def zika(zika_file):
    return read_virion(zika_file, 15.0)


def test_zika_has_its_size_and_symmetry(zika, zika_file):
    assert zika.radius_nm == pytest.approx(24.5, abs=0.5)  # about 50 nm across
    density, solid = zika.channels
    assert solid[_radii(len(solid)) < 35].all()
    assert density.max() <= 0.95
    import gemmi

    operators = gemmi.read_structure(str(zika_file)).assemblies[0].generators[0].operators
    grid = np.ix_(*(np.linspace(-1, 1, 50, dtype=np.float32),) * 3)
    turns = [np.array(operators[k].transform.mat.tolist(), np.float32)[::-1, ::-1] for k in (0, 1, 7, 40)]
    plain, *turned = (MapVirion(np.zeros(3), 1.0, turn, zika).density(*grid) for turn in turns)
    for other in turned:
        assert (np.isfinite(plain) == np.isfinite(other)).mean() > 0.98
        assert np.corrcoef(np.nan_to_num([plain.ravel(), other.ravel()]))[0, 1] > 0.97


def test_zika_has_a_membrane_of_two_leaflets(zika):
    density, radii = zika.channels[0], _radii(zika.channels.shape[-1]) * 5
    profile = {r: density[np.abs(radii - r) < 2.5].mean() for r in range(100, 250, 5)}
    assert profile[165] > profile[180] < profile[195]
    assert profile[155] < min(profile[165], profile[140])
    assert max(profile, key=profile.get) in (210, 215, 220)


def test_the_size_of_the_virion_in_the_cell_is_physical(zika_file, zika):
    with pytest.raises(InputError, match="--pixel-size-nm") as caught:
        make_specimen(SimulateConfig(size=96, cell="paper", virion=zika_file))
    fitting = float(str(caught.value).split("--pixel-size-nm ")[1].split()[0])
    assert fitting == pytest.approx(2 * zika.radius_nm / (0.2 * 96), abs=0.01)
    specimen = make_specimen(SimulateConfig(size=96, cell="paper", virion=zika_file, pixel_size_nm=fitting))
    radii = {p.radius for p in specimen.cell.particles if hasattr(p, "map")}
    assert len(radii) == 1
    assert radii.pop() == pytest.approx(0.1, rel=1e-2)


def test_zika_in_a_cell(zika_file, tmp_path):
    config = SimulateConfig(size=48, cell="paper", virion=zika_file, pixel_size_nm=10.0, tilts="-20:20:20")
    sim, again = simulate(config), simulate(config)
    assert sim.noisy.tobytes() == again.noisy.tobytes()
    assert 0 <= sim.truth.min() < sim.truth.max() <= 1
    meta = yaml.safe_load((sim.save(tmp_path) / "meta.yaml").read_text())
    assert meta["virion"]["name"] == "5ire.pdb.gz"
    assert len(meta["virion"]["sha256"]) == 64
    assert math.isclose(meta["virion"]["radius_nm"], 24.5, abs_tol=0.5)
