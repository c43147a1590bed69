"""Synthetic cells and their tilt series, for tests, benchmarks and first steps."""

from __future__ import annotations

from tiltfield.simulate.acquisition import NoiseLaw, Simulation, simulate
from tiltfield.simulate.cell import Cell, make_cell

__all__ = ["Cell", "NoiseLaw", "Simulation", "make_cell", "simulate"]
