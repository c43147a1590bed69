"""What tests of denoisers share."""

import pytest

from tiltfield.observe import Observer


class Told(Observer):
    def __init__(self):
        self.said, self.done = [], []

    def say(self, message):
        self.said.append(message)

    def progress(self, stage, done, seconds_left, figures):
        self.done.append((stage, done, seconds_left))


@pytest.fixture
def told():
    """An observer that keeps what it is told."""
    return Told()
