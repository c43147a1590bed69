"""The blur of rendered images: against the sum written out, closed forms, its own adjoint, and rays drawn at random."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import gaussian_filter

import tiltfield.defocus
from tiltfield.defocus import KERNELS, Defocus, blur_widths, sample_offsets
from tiltfield.simulate.defocus import defocus_image

LAWS = sorted(KERNELS)
ANGLES = np.array([-20.0, 55.0, 0.0, -60.0, 30.0])
STEEPEST = math.radians(60)
# Law, σ in pixels at its largest, and the largest error over the range of the image.
LARGEST_ERRORS = [
    *(("linear", 0.5, 1e-5), ("linear", 2.0, 1e-3), ("linear", 5.0, 1.5e-3)),
    *(("paper", 0.5, 2e-4), ("paper", 2.0, 1.5e-3), ("paper", 5.0, 4e-3)),
]


def rough(rows=40, columns=49, seed=0):
    return np.random.default_rng(seed).random((rows, len(ANGLES), columns), dtype=np.float32)


def smooth(rows=40, columns=49):
    images = np.stack([gaussian_filter(rough(rows, columns)[:, i], 2) for i in range(len(ANGLES))], axis=1)
    return (images - images.min()) / np.ptp(images)


def edges(rows=40, columns=49):
    images = np.zeros((rows, len(ANGLES), columns), np.float32)
    images[rows // 2 :, :, 5:-2] = 1
    return images


def exactly(images, law, most):
    columns = images.shape[2]
    blurred = [
        defocus_image(images[:, i], blur_widths(columns, math.radians(a), STEEPEST, most), KERNELS[law])
        for i, a in enumerate(ANGLES)
    ]
    return np.stack(blurred, axis=1)


def blur(images, law, most, before=0, after=0):
    defocus = Defocus.of(law, most, ANGLES, images.shape[2])
    return defocus.blur(torch.from_numpy(images), before, after).numpy()


@pytest.mark.parametrize("images", [rough(), smooth(), edges()], ids=["rough", "smooth", "edges"])
@pytest.mark.parametrize(("law", "most", "largest"), LARGEST_ERRORS)
def test_whole_images_are_those_of_the_sum_written_out(law, most, largest, images):
    expected = exactly(images, law, most)
    np.testing.assert_allclose(blur(images, law, most), expected, atol=largest)
    assert np.abs(expected - images).max() > 10 * largest


@pytest.mark.parametrize("law", LAWS)
def test_many_bands_are_one(law, monkeypatch):
    images = rough()
    whole = blur(images, law, 3.0)
    monkeypatch.setattr(tiltfield.defocus, "_BAND", 11)
    np.testing.assert_allclose(blur(images, law, 3.0), whole, atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("first", "last"), [(0, 9), (2, 12), (15, 16), (14, 25), (33, 40), (0, 40)])
def test_a_block_with_its_halo_is_part_of_the_whole(law, first, last):
    images = rough()
    halo = Defocus.of(law, 2.5, ANGLES, 49).halo
    low, high = max(0, first - halo), min(40, last + halo)
    block = blur(images[low:high], law, 2.5, first - low, high - last)
    np.testing.assert_allclose(block, blur(images, law, 2.5)[first:last], atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_more_rows_than_the_halo_change_nothing(law):
    images = rough()
    np.testing.assert_allclose(blur(images, law, 1.0, 15, 13), blur(images, law, 1.0)[15:-13], atol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_a_constant_stays_constant(law):
    images = np.full((7, len(ANGLES), 30), 0.7, np.float32)
    np.testing.assert_allclose(blur(images, law, 6.0), 0.7, rtol=1e-5)
    np.testing.assert_allclose(blur(images, law, 1.0, 2, 1), 0.7, rtol=1e-5)


@pytest.mark.parametrize("law", LAWS)
def test_no_tilt_no_blur_and_none_on_the_axis(law):
    images = rough()
    blurred = blur(images, law, 4.0)
    np.testing.assert_allclose(blurred[:, 2], images[:, 2], atol=1e-6)
    np.testing.assert_allclose(blurred[:, :, 24], images[:, :, 24], atol=1e-6)
    assert np.abs(blurred - images)[:, 3, 0].max() > 0.2


@pytest.mark.parametrize("law", LAWS)
def test_untilted_images_need_no_halo(law):
    defocus = Defocus.of(law, 3.0, np.zeros(2), 8)
    images = torch.rand(3, 2, 8, generator=torch.Generator().manual_seed(0))
    assert defocus.halo == 0
    torch.testing.assert_close(defocus.blur(images, 0, 0), images)


def test_the_halo_is_the_cut_of_the_widest_kernel():
    assert Defocus.of("linear", 2.4, ANGLES, 20).halo == 8
    assert Defocus.of("paper", 2.4, ANGLES, 20).halo == 10
    assert Defocus.of("linear", 2.4, ANGLES[2:3], 20, steepest_deg=60).halo == 0


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("ends", [(0, 0), (2, 1), (1, 0)])
def test_gradients_are_the_adjoint(law, ends):
    defocus = Defocus.of(law, 1.1, ANGLES[:3], 5).double()
    images = torch.rand(6, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: defocus.blur(x, *ends), images)


@pytest.mark.parametrize("law", LAWS)
def test_inner_products_agree_across_bands(law):
    defocus = Defocus.of(law, 3.0, ANGLES, 150).double()
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(20, len(ANGLES), 150, dtype=torch.float64, generator=generator, requires_grad=True)
    y = torch.rand(12, len(ANGLES), 150, dtype=torch.float64, generator=generator)
    inner = (defocus.blur(x, 5, 3) * y).sum()
    (adjoint,) = torch.autograd.grad(inner, x)
    assert (adjoint * x).sum().item() == pytest.approx(inner.item(), rel=1e-12)


def test_widths_are_those_of_the_columns():
    defocus = Defocus.of("linear", 3.0, ANGLES, 20)
    expected = np.stack([blur_widths(20, math.radians(a), STEEPEST, 3.0) for a in ANGLES])
    np.testing.assert_allclose(defocus.widths, expected, rtol=1e-6)


@pytest.mark.parametrize("law", LAWS)
def test_offsets_have_the_distribution_of_the_kernel(law):
    widths = torch.tensor([0.3, 1.0, 4.0]).repeat_interleave(20000)
    offsets = sample_offsets(widths, law, torch.Generator().manual_seed(3))
    assert offsets.shape == (60000, 2)
    scaled = (offsets / widths[:, None]).numpy().astype(np.float64)
    np.testing.assert_allclose(scaled.reshape(3, -1, 2).std(axis=1), 1, rtol=0.03)
    lengths = np.hypot(*scaled.T)
    radial = stats.rayleigh() if law == "linear" else stats.gamma(2, scale=1 / math.sqrt(3))
    assert stats.kstest(lengths, radial.cdf).pvalue > 0.01
    turns = np.arctan2(*scaled.T) / (2 * math.pi) + 0.5
    assert stats.kstest(turns, "uniform").pvalue > 0.01
    assert abs(stats.spearmanr(lengths, turns).statistic) < 0.02


@pytest.mark.parametrize("law", LAWS)
def test_rays_drawn_at_random_average_to_the_blur(law):
    """Of a plane wave, too, whose blur has a closed form: exp(-k²σ²/2), or (1 + k²s²)^(-3/2)."""
    n, sigma, draws = 61, 3.0, 20000
    ky, ku = 0.35, 0.2
    wave = (ky * torch.arange(n)[:, None] + ku * torch.arange(n)).cos()
    defocus = Defocus.of(law, sigma, np.array([60.0]), n)
    blurred = defocus.blur(wave[:, None], 0, 0)[:, 0]
    column = 12
    width = defocus.widths[0, column : column + 1]
    dy, du = sample_offsets(width.expand(draws), law, torch.Generator().manual_seed(4)).T
    seen = (ky * (30 + dy) + ku * (column + du)).cos()
    assert seen.mean().item() == pytest.approx(blurred[30, column].item(), abs=4 * seen.std().item() / draws**0.5)
    square = (ky**2 + ku**2) * width.item() ** 2
    factor = math.exp(-square / 2) if law == "linear" else (1 + square / 3) ** -1.5
    assert blurred[30, column].item() == pytest.approx(factor * wave[30, column].item(), abs=0.01)
