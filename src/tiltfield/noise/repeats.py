"""The noise in repeated frames of one field: two are enough, and no clean image is needed.

For frames x_i = c + n_i the clean image of one is estimated from the others alone, D(x_j), so that the noise to be
explained is not in it (but for the numbers of the filter, which are fitted to all frames: in N × N pixels about 1.3 N
independent gains of a smoothed spectrum, and 56 weights of a mixture). The estimate has an error of its own, which
would count as noise: E (x_i - D)² = σ² + MSE. What noise there is, is known exactly from differences,
Var(x_i - x_j) = 2 σ², at every frequency and intensity. So the residual is filtered to have the spectrum of the
difference (at high frequencies it has it already; at low ones, where D follows the noise of its own frame, it has up to
twice as much), and scaled to have its variance at each intensity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from tiltfield.errors import InputError
from tiltfield.noise.base import Recording
from tiltfield.noise.learn import Pairs
from tiltfield.noise.pairs import centre, check_images, recording_of
from tiltfield.noise.restore import FITS, Fit, cosine, judge, smooth_spectrum, uncosine
from tiltfield.observe import Observer

_JUDGED = 512  # rows and columns in the middle that denoisers are tried on
_BINS = 24
_PARTS = (0.05, 0.2, 0.5, 0.9)  # quantiles of the intensity at which the noise's spectrum is compared
_BLIND_WIDTH = 1.5  # pixels
_LEAST = 0.05  # of the smallest variance seen: the line is not followed below
_LISTED = 3  # frames that are told of one by one
_HIGH_PASS = 20.0  # pixels: slower structure says nothing of the registration
_HUM = 40.0  # times the median of the spectrum of row means; chance reaches 15
_DRIFT = 0.05  # of the noise deviation, between mean levels


@dataclass(frozen=True, eq=False)
class Repeats:
    """What repeated frames tell of their noise.

    Attributes:
        pairs: the clean estimate of every frame, from the others, and the same with the noise of the frame.
        denoiser: what made the clean estimates.
        error_share: their mean squared error over the variance of the noise.
        notes: what was found on the way, in words.
    """

    pairs: Pairs
    denoiser: str
    error_share: float
    notes: tuple[str, ...]


def recording_of_frames(frames: np.ndarray) -> Recording:
    """Return at what values frames saturate, and how far their grey values are apart if that is coarse.

    Args:
        frames: shape (frame, row, col).

    Raises:
        InputError: for less than two frames, frames of less than 32 pixels, or values that are not finite.
    """
    check_images(frames, "repeated")
    if len(frames) < 2:
        raise InputError(f"expected at least two frames of one field, got {len(frames)}: one frame has no repeat")
    return recording_of(frames, float(np.std(frames[0].astype(np.float64) - frames[1])) / np.sqrt(2))


def pairs_from_repeats(
    frames: np.ndarray,
    observer: Observer | None = None,
    fits: Mapping[str, Fit] = FITS,
    recording: Recording | None = None,
) -> Repeats:
    """Return the clean image and the noise of each of several frames of one field.

    The noise has the variance of the frames' differences at every intensity, and their spectrum. Frames that are
    clipped or coarsely quantised are left as recorded, for their noise cannot be filtered; it keeps the estimate's
    error.

    Args:
        frames: shape (frame, row, col), at least two, registered to the pixel.
        observer: told what was found.
        fits: denoisers to choose from.
        recording: how they were recorded, if other fields of the same detector tell; else told from the frames.

    Returns:
        as many pairs as frames, `noisy` being the clean estimate plus the corrected noise, and how they were found.

    Raises:
        InputError: for less than two frames, frames of less than 32 pixels, values that are not finite, or copies.
    """
    observer = observer or Observer()
    own = recording_of_frames(frames)
    recording = recording or own
    seen, wanted, notes = _prepared(frames, recording)
    contrast = (wanted - seen) * np.sqrt(1 - 1 / len(frames))  # as much noise as one frame, and nothing else
    notes += _hum(contrast[0])
    name = _choose(fits, seen, wanted, observer)
    denoise = fits[name](seen, wanted)
    clean = _calibrated(np.stack([denoise(image) for image in seen]), wanted)
    variance = float(contrast.var())
    share = float(np.mean((wanted - clean) ** 2)) / variance - 1
    notes.append(f"clean images by {name}; their squared error is {share:.1%} of the noise variance")
    noise = wanted - clean
    if recording == Recording():
        noise = _corrected(noise, contrast, clean, wanted)
    else:
        notes.append(f"the frames are left as recorded ({_words(recording)}): their noise keeps that error")
    for note in notes:
        observer.say(note)
    pairs = Pairs(_single(clean), _single(clean + noise), recording)
    return Repeats(pairs, name, max(share, 0.0), tuple(notes))


def _single(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images, dtype=np.float32)


def _prepared(frames: np.ndarray, recording: Recording) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return, for every frame, the mean of the others and itself; and what was noticed.

    Frames are brought to one mean level, unless their values must stay what they are.
    """
    images = frames.astype(np.float64)
    if any(np.array_equal(images[0], other) for other in images[1:]):
        raise InputError("two of the frames are the same to the bit: they hold no independent noise; give real repeats")
    if any(np.ptp(image) == 0 for image in images):
        raise InputError("one of the frames is constant: it holds no noise; leave it out")
    notes = _registration(images)
    if recording == Recording():
        notes += _drift(images)
        images += (images.mean() - images.mean(axis=(1, 2)))[:, None, None]
    others = (images.sum(axis=0) - images) / (len(images) - 1)
    return others, images, notes


def _registration(images: np.ndarray) -> list[str]:
    """Say which frames are shifted against the first, by the peak of their cross-correlation."""
    transforms = [np.fft.rfft2(image - gaussian_filter(image, _HIGH_PASS)) for image in images]
    notes = []
    for i, other in enumerate(transforms[1:], start=1):
        surface = np.fft.irfft2(transforms[0].conj() * other, s=images.shape[1:])
        peak = np.unravel_index(int(surface.argmax()), surface.shape)
        shift = [int((p + n // 2) % n - n // 2) for p, n in zip(peak, surface.shape, strict=True)]
        if any(shift):
            notes.append(
                f"frame {i + 1} looks shifted against frame 1 by {shift[0]} rows and {shift[1]} columns: what moved "
                "will count as noise; align the frames first"
            )
    if len(notes) > _LISTED:
        notes = [*notes[:_LISTED], f"and so do {len(notes) - _LISTED} more: are these repeats of one field?"]
    return notes


def _drift(images: np.ndarray) -> list[str]:
    """Say by how much mean levels differ, if that is more than they would by chance."""
    levels = images.mean(axis=(1, 2))
    deviation = float(np.std(images[0] - images[1])) / np.sqrt(2)
    if np.ptp(levels) <= _DRIFT * deviation:
        return []
    share = np.ptp(levels) / deviation
    return [
        f"the mean levels of the frames differ by {np.ptp(levels):.4g} ({share:.0%} of the noise deviation); they were "
        "brought to one level"
    ]


def _hum(noise: np.ndarray) -> list[str]:
    """Say if the rows are offset periodically, as by the mains: by the highest line in the spectrum of their means."""
    power = np.abs(np.fft.rfft(noise.mean(axis=1)))[1:] ** 2
    line = int(power.argmax())
    if power[line] < _HUM * np.median(power):
        return []
    share = 2 * power[line] / len(noise) ** 2 / float(noise.var())
    period = len(noise) / (line + 1)
    return [
        f"the rows are offset with a period of {period:.3g} rows (mains hum?), {share:.2%} of the noise variance; it "
        "counts as noise"
    ]


def _choose(fits: Mapping[str, Fit], seen: np.ndarray, wanted: np.ndarray, observer: Observer) -> str:
    """Return the denoiser with the smallest error against frames not seen, on rows that it was not fitted to."""
    size = [min(n, _JUDGED) for n in seen.shape[1:]]
    small = [centre(images, *size) for images in (seen, wanted)]
    losses = {}
    for i, (name, fit) in enumerate(fits.items()):
        losses[name] = judge(fit, *small)
        observer.progress("clean images", (i + 1) / len(fits), None, {})
    return min(losses, key=losses.__getitem__)


def _bins(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the bin of every value, bins holding equally many, and the mean value of each bin."""
    edges = np.quantile(values, np.linspace(0, 1, _BINS + 1)[1:-1])
    index = np.digitize(values.ravel(), edges)
    count = np.maximum(np.bincount(index, minlength=_BINS), 1)
    return index, np.bincount(index, values.ravel(), _BINS) / count


def _means(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.bincount(index, values.ravel(), _BINS) / np.maximum(np.bincount(index, minlength=_BINS), 1)


def _calibrated(estimate: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return the estimate shifted, per intensity, so that the frame not seen has it as its mean."""
    index, middle = _bins(estimate)
    return estimate + np.interp(estimate, middle, _means(index, wanted) - middle)


def _corrected(residual: np.ndarray, contrast: np.ndarray, clean: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return residuals with the noise's spectrum and, at each clean intensity, its variance and zero mean."""
    pilot = _blind(images.mean(axis=0), contrast)
    line = _variance_line(pilot, contrast, images)
    deviation = np.sqrt(line(clean.mean(axis=0)))
    noise = _respectrum(residual / deviation, contrast / deviation, pilot) * deviation
    index, middle = _bins(clean)
    noise -= np.interp(clean, middle, _means(index, noise))
    scale = np.sqrt(line(middle) / np.maximum(_means(index, noise**2), 1e-30))
    return noise * np.interp(clean, middle, scale)


def _blind(image: np.ndarray, contrast: np.ndarray) -> np.ndarray:
    """Return local intensities from the neighbouring lines alone, whose noise is not that of the pixel.

    Where noise is skewed, a pixel whose own noise is large has a large variance: sorted by estimates that hold its
    noise, bright pixels would seem noisier than they are. Lines run along the axis in which noise is correlated.
    """
    across = 0 if _neighbours(contrast, 1) <= _neighbours(contrast, 2) else 1
    along = gaussian_filter1d(image, _BLIND_WIDTH, axis=1 - across)
    spike = np.zeros(2 * round(4 * _BLIND_WIDTH) + 1)
    spike[len(spike) // 2] = 1.0
    own = gaussian_filter1d(spike, _BLIND_WIDTH).max()
    return (gaussian_filter1d(along, _BLIND_WIDTH, axis=across) - own * along) / (1 - own)


def _neighbours(noise: np.ndarray, axis: int) -> float:
    n = np.moveaxis(noise, axis, 0)
    return abs(float(np.mean(n[1:] * n[:-1])))


def _variance_line(pilot: np.ndarray, contrast: np.ndarray, images: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return the variance of the noise as a function of the clean intensity, from differences of the frames.

    Bins of the pilot give unbiased points: the frames' mean, and the mean square of their difference.
    """
    everywhere = np.broadcast_to(pilot, images.shape)
    index, _ = _bins(everywhere)
    intensity, variance = _means(index, images), _means(index, contrast**2)
    slope, level = np.polyfit(intensity, variance, 1, w=1 / np.maximum(variance, 1e-30))
    floor = _LEAST * float(variance.min())
    return lambda clean: np.maximum(slope * clean + level, floor)


def _respectrum(residual: np.ndarray, noise: np.ndarray, pilot: np.ndarray) -> np.ndarray:
    """Return the residual filtered to have the spectrum of the noise, in dark and in bright parts of the image.

    Args:
        residual: shape (frame, row, col), of about unit variance.
        noise: what it should look like, same shape.
        pilot: the intensities to tell the parts by, shape (row, col).
    """
    nodes = np.quantile(pilot, _PARTS)
    spectra, result = cosine(residual), np.zeros_like(residual)
    for k in range(len(nodes)):
        weight = np.interp(pilot, nodes, np.eye(len(nodes))[k])  # the weights of all parts sum to one
        there, wanted = (smooth_spectrum((cosine(weight * x) ** 2).mean(axis=0)) for x in (residual, noise))
        gain = np.sqrt(np.clip(wanted / np.maximum(there, 1e-30), 0.0, 1.0))
        result += weight * uncosine(spectra * gain)
    return result


def _words(recording: Recording) -> str:
    words = [f"saturated at {end:g}" for end in (recording.low, recording.high) if end is not None]
    if recording.quantum is not None:
        words.append(f"grey values {recording.quantum:g} apart")
    return ", ".join(words)
