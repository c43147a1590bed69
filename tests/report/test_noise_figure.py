"""The picture of noise models: written, of one size, whatever the number of models."""

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from tiltfield.judge import compare
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.learn import Pairs
from tiltfield.report.noise import save_noise_figure


@pytest.mark.parametrize("n_models", [1, 3])
def test_the_picture(tmp_path, n_models):
    clean = np.broadcast_to(np.linspace(10, 100, 80, dtype=np.float32), (1, 64, 80)).copy()
    true = PoissonGaussian(1.0, 4.0)
    pairs = Pairs(clean, true.sample(torch.from_numpy(clean), torch.Generator().manual_seed(0)).numpy())
    models = dict(list({"line": true, "gaussian": Gaussian(7.0), "wide": Gaussian(9.0)}.items())[:n_models])
    path = save_noise_figure(tmp_path / "noise.png", compare(models, pairs), models, pairs)
    height, width, _ = imread(path).shape
    assert 1500 < width < 1700
    assert 600 < height < 1600
