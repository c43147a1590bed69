"""A virion from a structure (PDB, mmCIF) or a map (MRC). Lengths here are in Å, axes (z, y, x)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from tiltfield.errors import InputError
from tiltfield.simulate.virion import CORE, FLUID, LEAFLET, PROTEIN, TAILS, VirionMap

SIGMA = 0.225  # of the Gaussian over the resolution: its transform falls to 1/e at the resolution, 1 / (π √2)
VOXELS_PER_RESOLUTION = 3
LARGEST_GRID = 400
SURFACE = 0.3  # share of the full density that is the surface
BILAYER, LEAFLET_SIGMA, INSET = 40.0, 5.0, 5.0  # Å: thickness; width of a leaflet and its distance from the face
CORE_GAP, CORE_EDGE = 10.0, 5.0  # Å: fluid between membrane and core; softness of the core's surface
ANGSTROM_PER_NM = 10.0


def read_virion(path: Path, resolution_a: float) -> VirionMap:
    """Read a virion.

    Atoms, with all copies of the first biological assembly, become a density at the resolution; the membrane and the
    core that atomic models lack are put below the shell of protein. A map is taken as it is, smoothed to the resolution
    if its voxels are finer than a third of that.

    Args:
        path: PDB or mmCIF, plain or .gz, or MRC.
        resolution_a: resolution, Å.

    Raises:
        InputError: if the file cannot be read or holds nothing, or the package that reads atoms is not there.
    """
    from tiltfield.io import mrc

    with path.open("rb") as file:
        head = file.read(1024)
    if path.name.lower().endswith((".map.gz", ".mrc.gz")):
        raise InputError(f"{path}: expected an unpacked map: run gunzip first")
    if mrc.matches(path, head):
        return _from_map(path, resolution_a)
    atoms = read_atoms(path)
    spacing = resolution_a / VOXELS_PER_RESOLUTION
    protein = atom_density(atoms, resolution_a, str(path))
    protein = np.clip(protein / _full(protein), 0, 1)
    radii = _radii(len(protein)) * spacing
    return _virion_map(np.maximum(PROTEIN * protein, _membrane_and_core(protein, radii)), spacing)


@dataclass(frozen=True, eq=False)
class Atoms:
    """Atoms of a whole assembly.

    Attributes:
        positions: (z, y, x), Å, shape (atom, 3).
        weights: atomic number times occupancy, shape (atom,).
    """

    positions: np.ndarray
    weights: np.ndarray


def read_atoms(path: Path) -> Atoms:
    """Read the atoms of the first biological assembly, or those of the file if it names none. Water is left out.

    Args:
        path: PDB or mmCIF, plain or .gz.

    Raises:
        InputError: if gemmi is not installed, or the file cannot be read or holds no atoms.
    """
    try:
        import gemmi
    except ImportError:
        raise InputError(
            f"{path}: atoms are read by gemmi: install it with  pip install 'tiltfield[structure]'"
        ) from None
    try:
        structure = gemmi.read_structure(str(path))
    except (RuntimeError, ValueError, IndexError, OSError) as error:
        raise InputError(f"{path}: expected a PDB or mmCIF file, or an MRC map: {error}") from None
    structure.setup_entities()
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise InputError(f"{path} holds no atoms: expected a PDB or mmCIF file, or an MRC map")
    return _assembled(structure)


def _assembled(structure: Any) -> Atoms:
    residues = [(chain.name, r.subchain, r) for chain in structure[0] for r in chain if not r.is_water()]
    rows = [(*a.pos.tolist(), a.element.atomic_number * a.occ) for *_, r in residues for a in r]
    table = np.array(rows).reshape(-1, 4)
    chains = np.repeat([(c, s) for c, s, _ in residues], [len(r) for *_, r in residues], axis=0).reshape(-1, 2)
    if not structure.assemblies:
        return Atoms(table[:, 2::-1], table[:, 3])
    positions, weights = [], []
    for generator in structure.assemblies[0].generators:
        mine = table[np.isin(chains[:, 0], generator.chains) | np.isin(chains[:, 1], generator.subchains)]
        for operator in generator.operators:
            matrix, shift = (np.array(part.tolist()) for part in (operator.transform.mat, operator.transform.vec))
            positions.append((mine[:, :3] @ matrix.T + shift)[:, ::-1])
            weights.append(mine[:, 3])
    return Atoms(np.concatenate(positions), np.concatenate(weights))


def atom_density(atoms: Atoms, resolution_a: float, source: str = "structure") -> np.ndarray:
    """Return the density of atoms at a resolution, on a cubic grid about their centre with voxels of a third of it.

    Each atom becomes its weight times a Gaussian of σ = 0.225 · resolution (the convention of UCSF Chimera's molmap).
    Splatting between voxels widens it by 1/6 voxel², which the filter leaves out.

    Args:
        atoms: of the whole assembly.
        resolution_a: resolution, Å.
        source: for the message.

    Returns:
        weight per voxel, float64, shape (n, n, n), n odd.

    Raises:
        InputError: if the grid would be too large.
    """
    spacing = resolution_a / VOXELS_PER_RESOLUTION
    centre = np.average(atoms.positions, axis=0, weights=atoms.weights)
    reach = float(np.linalg.norm(atoms.positions - centre, axis=1).max()) + 2 * resolution_a
    half = math.ceil(reach / spacing)
    if 2 * half + 1 > LARGEST_GRID:
        raise InputError(
            f"{source}: at {resolution_a:g} Å a particle of {2 * reach:.0f} Å needs a grid of {2 * half + 1}³ voxels, "
            f"expected at most {LARGEST_GRID}³: give a larger --resolution-a"
        )
    place = (atoms.positions - centre) / spacing + half
    sigma = math.sqrt((SIGMA * VOXELS_PER_RESOLUTION) ** 2 - 1 / 6)
    return np.asarray(ndimage.gaussian_filter(_splatted(place, atoms.weights, 2 * half + 1), sigma, truncate=6))


def _splatted(place: np.ndarray, weights: np.ndarray, n: int) -> np.ndarray:
    """Share out each weight among the eight voxels around its place."""
    first = np.floor(place).astype(np.int64)
    rest = place - first
    grid = np.zeros(n**3)
    for corner in np.ndindex(2, 2, 2):
        share = np.prod(np.where(corner, rest, 1 - rest), axis=1)
        index = np.ravel_multi_index(tuple((first + corner).T), (n, n, n))
        grid += np.bincount(index, weights * share, n**3)
    return grid.reshape(n, n, n)


def _radii(n: int) -> np.ndarray:
    """Return the distance of every voxel from the centre of an n³ grid, voxels."""
    along = np.arange(n) - (n - 1) / 2
    return np.sqrt(sum(c * c for c in np.ix_(along, along, along)))


def _full(density: np.ndarray) -> float:
    """Return the density that counts as full, without being led by single voxels."""
    return float(np.percentile(density[density > 0.1 * density.max()], 95))


def inner_face(protein: np.ndarray, radii: np.ndarray) -> float | None:
    """Return the radius at which the main shell of protein begins: where its mean falls to half, inwards of its peak.

    Args:
        protein: density, shape (n, n, n).
        radii: distances from the centre, Å, the same shape.

    Returns:
        Å, or None if the mean over spheres does not fall to half inwards of its peak.
    """
    width = float(radii[0, 0, 0] - radii[1, 1, 1]) / math.sqrt(3)  # a voxel
    shell = np.rint(radii / width).astype(int).ravel()
    profile = np.bincount(shell, protein.ravel()) / np.maximum(np.bincount(shell), 1)
    peak = int(np.argmax(profile))
    below = np.flatnonzero(profile[:peak] < profile[peak] / 2)
    if len(below) == 0:
        return None
    k = int(below[-1])
    return float(width * (k + (profile[peak] / 2 - profile[k]) / (profile[k + 1] - profile[k])))


def _membrane_and_core(protein: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Return the density of a bilayer below the shell of protein and of a core below that; 0 outside of them."""
    face = inner_face(protein, radii)
    if face is None or face < BILAYER + CORE_GAP + 2 * CORE_EDGE:
        return np.zeros_like(protein)
    inner = face - BILAYER
    leaflets = sum(np.exp(-(((radii - r) / LEAFLET_SIGMA) ** 2) / 2) for r in (face - INSET, inner + INSET))
    membrane = np.where((radii > inner) & (radii < face), np.maximum(TAILS, LEAFLET * np.minimum(leaflets, 1)), 0)
    core = CORE * np.clip((inner - CORE_GAP - radii) / CORE_EDGE + 0.5, 0, 1)
    fluid = np.where(radii <= face, FLUID, 0.0)
    return np.maximum(np.maximum(membrane, core), fluid)


def _virion_map(density: np.ndarray, spacing: float) -> VirionMap:
    """Return a map of densities 0 to 1 (n, n, n), transparent outside the surface of its largest part."""
    solid = _largest_part(density > SURFACE * PROTEIN)
    solid = ndimage.binary_fill_holes(solid)
    radius = float(_radii(len(density))[solid].max()) + 0.5
    channels = np.stack([np.where(solid, np.maximum(density, FLUID), 0), solid]).astype(np.float32)
    return VirionMap(channels, radius, radius * spacing / ANGSTROM_PER_NM)


def _largest_part(mask: np.ndarray) -> np.ndarray:
    """Return the largest connected part, so that specks of noise do not widen the particle."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return np.asarray(labels == 1 + np.argmax(np.bincount(labels.ravel())[1:]))


def _from_map(path: Path, resolution_a: float) -> VirionMap:
    from tiltfield.io import mrc

    volume = mrc.read_volume(path)
    if volume.voxel_size_nm is None:
        raise InputError(f"{path}: expected the voxel size in the header of the map: write it there first")
    density, spacing = volume.data.astype(np.float64), volume.voxel_size_nm * ANGSTROM_PER_NM
    wanted = resolution_a / VOXELS_PER_RESOLUTION
    if spacing < 0.9 * wanted:
        density = ndimage.gaussian_filter(density, SIGMA * resolution_a / spacing)
        density = ndimage.zoom(density, spacing / wanted, order=1, grid_mode=True, mode="nearest")
        spacing = wanted
    faces = [face for axis in range(3) for face in (density.take(0, axis), density.take(-1, axis))]
    density = density - np.median(np.concatenate([face.ravel() for face in faces]))
    if not density.max() > 0:
        raise InputError(f"{path}: expected a particle brighter than what surrounds it; invert the map first")
    density = PROTEIN * np.clip(density / _full(density), 0, 1)
    return _virion_map(_centred(density, str(path)), spacing)


def _centred(density: np.ndarray, source: str) -> np.ndarray:
    """Return the density on a cubic grid of odd edge with its centre of mass in the middle voxel."""
    middle = [round(c) for c in ndimage.center_of_mass(np.where(density > SURFACE * PROTEIN, density, 0))]
    half = max(max(m, n - 1 - m) for m, n in zip(middle, density.shape, strict=True))
    if 2 * half + 1 > LARGEST_GRID:
        raise InputError(f"{source}: a map of {density.shape} voxels is too large here: take a coarser resolution")
    pad = [(half - m, half - (n - 1 - m)) for m, n in zip(middle, density.shape, strict=True)]
    return np.pad(density, pad)
