"""Fixtures for every test."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from tiltfield.config import SimulateConfig
from tiltfield.simulate import simulate

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data():
    """Return a function from a name in ../shared/data to its path; it skips the test where that is absent."""

    def find(name: str) -> Path:
        path = SHARED / name
        if not path.exists():
            pytest.skip(f"needs the measured data ../shared/data/{name}, which is not part of the project")
        return path

    return find


@pytest.fixture(scope="session")
def cell():
    """Return a function from settings of `simulate` to a small synthetic cell, each made once."""

    @functools.cache
    def make(**settings):
        return simulate(SimulateConfig.parse({"size": 24, "tilts": "-60:60:5"} | settings, "test"))

    return make
