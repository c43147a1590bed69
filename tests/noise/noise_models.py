"""Every model of the registry, bent away from its start, for the tests of what they all promise."""

import pytest
import torch

from tiltfield.noise import NOISES, Start, make_noise
from tiltfield.noise.base import Recording
from tiltfield.noise.flow import RadialFlow
from tiltfield.noise.paper import PaperFlow
from tiltfield.noise.scan import Scan

F64 = torch.float64
QUANTUM = 1 / 64
RECORDINGS = {
    "plain": Recording(),
    "saturated": Recording(low=0.0, high=1.0),
    "quantised": Recording(quantum=QUANTUM),
    "both": Recording(low=0.0, high=1.0, quantum=QUANTUM),
}
# The flow tabulates at 129 intensities from 0 to 1: on its nodes, between them, and beyond.
ON = [0.0, 0.125, 0.5, 1.0]
BETWEEN = [0.0137, 0.0999, 0.3711, 0.8242]
BEYOND = [-0.07, 1.08]
MEASURED = [0.51, 0.17, 0.06, 0.02]  # correlation of the noise along the scan of real images


def make(name, recording, *, slope=0.05, floor=4e-4, low=0.0, high=1.0, bend=0.3):
    """A model, the flow bent away from its start, noise along the scan correlated, in float64."""
    generator = torch.Generator().manual_seed(0)
    model = make_noise(name, Start(slope, floor, 0.1, low, high, generator, recording))
    if isinstance(model, Scan):
        model.correlate_(torch.tensor(MEASURED))
    flow = marginal(model)
    bent = {}
    if isinstance(flow, RadialFlow):
        bent = {flow.free: bend, flow.outer.weight: bend, flow.outer.bias: bend}
    elif isinstance(flow, PaperFlow):
        bent = {flow.free: bend, flow.outer: bend / 10, flow.bias: bend / 10}  # the MLP's output is stretched tenfold
    with torch.no_grad():
        for parameter, size in bent.items():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return model.double()


def marginal(model):
    """The model of a pixel by itself."""
    return model.marginal if isinstance(model, Scan) else model


def log_law(model, observed, clean):
    """The log-likelihood of pixels that know nothing of each other."""
    return model.log_prob(observed, clean, torch.zeros(observed.shape, dtype=torch.int8))


CASES = [
    pytest.param(name, recording, id=f"{name}-{label}")
    for name in NOISES
    for label, recording in RECORDINGS.items()
    if make(name, recording).recording == recording  # l2, l1 and flow-paper ignore the recording
]
every_case = pytest.mark.parametrize(("name", "recording"), CASES)
every_model = pytest.mark.parametrize("name", NOISES)
every_recorded = pytest.mark.parametrize("name", [n for n in NOISES if make(n, RECORDINGS["both"]).recording.quantum])
every_zero_mean = pytest.mark.parametrize("name", [name for name in NOISES if name != "flow-paper"])


def tensor(values):
    return torch.as_tensor(values, dtype=F64)


def draw(model, clean, n, seed=5):
    """Independent samples: lines of one pixel."""
    return model.sample(tensor(clean).expand(n, 1), torch.Generator().manual_seed(seed)).flatten()
