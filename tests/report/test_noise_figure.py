"""The picture of noise models: one panel for each image and each law, none of them empty, at a fixed width."""

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread

from tiltfield.judge import compare
from tiltfield.noise.gaussian import Gaussian, PoissonGaussian
from tiltfield.noise.learn import Pairs
from tiltfield.report.noise import save_noise_figure

CURVES = ("calibration", "correlation", "power", "variance")


@pytest.fixture
def saved(monkeypatch):
    """The figures that were saved."""
    figures, savefig = [], Figure.savefig

    def keep(self, *args, **options):
        figures.append(self)
        return savefig(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def drawn_values(axes):
    """Every image, line and staircase of a panel, as an array each."""
    images = [np.asarray(image.get_array()) for image in axes.images]
    stairs = [patch.get_data().values for patch in axes.patches]
    return [*images, *(np.asarray(line.get_ydata(), float) for line in axes.lines), *stairs]


def check_panels(figure, names):
    """Each panel shows what its title says, of every model, and with values that differ."""
    panels = [axes for axes in figure.axes if axes.axison]
    titles = [axes.get_title() for axes in panels]
    assert titles[: -len(CURVES)] == ["clean image", "real noise", *names]
    assert [title.split()[0] for title in titles[-len(CURVES) :]] == list(CURVES)
    for axes, title in zip(panels, titles, strict=True):
        varied = [values for values in drawn_values(axes) if np.isfinite(values).all() and np.ptp(values) > 0]
        assert len(varied) >= (len(names) if title.startswith(CURVES) else 1), title


@pytest.mark.parametrize("n_models", [1, 3])
def test_the_picture(tmp_path, saved, n_models):
    clean = np.broadcast_to(np.linspace(10, 100, 80, dtype=np.float32), (1, 64, 80)).copy()
    true = PoissonGaussian(1.0, 4.0)
    pairs = Pairs(clean, true.sample(torch.from_numpy(clean), torch.Generator().manual_seed(0)).numpy())
    models = dict(list({"line": true, "gaussian": Gaussian(7.0), "wide": Gaussian(9.0)}.items())[:n_models])
    path = save_noise_figure(tmp_path / "noise.png", compare(models, pairs), models, pairs)
    pixels = imread(path)
    height, width, _ = pixels.shape
    assert 1500 < width < 1700
    assert 600 < height < 1600
    assert pixels[..., :3].std() > 0.1
    (figure,) = saved
    check_panels(figure, list(models))
    figure.axes[0].images[0].remove()
    with pytest.raises(AssertionError, match="clean image"):
        check_panels(figure, list(models))
