"""Synthetic cells and their tilt series, for tests, benchmarks and first steps."""

from __future__ import annotations

from tiltfield.simulate.acquisition import simulate
from tiltfield.simulate.cell import Cell
from tiltfield.simulate.dataset import Simulation
from tiltfield.simulate.population import make_cell
from tiltfield.simulate.recording import NoiseLaw

__all__ = ["Cell", "NoiseLaw", "Simulation", "make_cell", "simulate"]
