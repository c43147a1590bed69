"""Damaged files of every kind: each is an input error, or loads; none raises, hangs, or takes memory.

As a program it tries many: ``python fuzz.py FOLDER CASES SEED``; it prints what is wrong, and exits with 1 if anything.
"""

import faulthandler
import importlib.util
import shutil
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import samples

from tiltfield import io
from tiltfield.errors import InputError

LIMIT = 20  # seconds for a file
ROOM = 8 * 2**20  # bytes that code and small objects may take, whatever the file
EXTREMES = (0, 1, 2, 7, 0x7F, 0x80, 0xFF)
SMALL, LARGE = (7, 24, 20), (12, 128, 128)
TEXTS = (".mdoc", ".rawtlt", ".xf")  # a number that is cut short is another number


@dataclass(frozen=True)
class Base:
    """A sound file or folder, what is in it, and how it is loaded."""

    name: str
    path: Path
    images: np.ndarray
    contents: dict[Path, bytes]
    options: dict[str, Path]

    @property
    def size(self):
        return sum(len(content) for content in self.contents.values())


@dataclass
class Tally:
    """What came of the damaged files, by kind, and what went wrong."""

    loaded: Counter = field(default_factory=Counter)
    refused: Counter = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def bases(folder, shape=SMALL):
    """Write one file of each kind that can be written here."""
    angles = folder / "angles.txt"
    for number, (name, sample) in enumerate(samples.SAMPLES.items()):
        if sample.needs is not None and importlib.util.find_spec(sample.needs) is None:
            continue
        place = folder / f"{number}"
        place.mkdir(parents=True)
        angles.write_text("\n".join(f"{a:.3f}" for a in samples.tilts(shape[0])))
        images = samples.make(*shape, dtype=sample.dtype)
        path = sample.write(place, images)
        contents = {p: p.read_bytes() for p in sorted(place.rglob("*")) if p.is_file()}
        options = {} if path.suffix == ".mdoc" else {"angles": angles}
        moves = path.with_suffix(".xf")
        yield Base(name, path, images, contents, options | ({"transforms": moves} if moves in contents else {}))


def damaged(base, rng, cut):
    """Damage one file of a series: cut it, or overwrite bytes, mostly those that are not pixels."""
    victims = list(base.contents)
    weight = np.sqrt([len(content) for content in base.contents.values()])
    victim = victims[rng.choice(len(victims), p=weight / weight.sum())]
    content = base.contents[victim]
    if cut:
        return victim, content[: rng.integers(len(content))]
    spoiled = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        place = int(rng.choice(_fields(content, base.images)))
        width = int(rng.choice([1, 1, 2, 4, 8]))
        value = rng.choice([*EXTREMES, rng.integers(256)])
        spoiled[place : place + width] = bytes([value] * width)[: len(content) - place]
    return victim, bytes(spoiled)


def _fields(content, images):
    """Bytes of a file that are no pixels, where these lie in one piece; else all bytes."""
    raw = images.tobytes()
    start = content.find(raw)
    return np.arange(len(content)) if start < 0 else np.r_[0:start, start + len(raw) : len(content)]


def attempt(base, victim, content, tally):
    """Load a damaged series and note what came of it."""
    victim.write_bytes(content)
    before, loaded, found = _peak(reset=True), None, None
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        loaded = io.load(base.path, **base.options)
    except InputError as error:
        if base.path.stem.split(".")[0] not in str(error):
            found = f"an error that does not name the file: {error}"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    finally:
        faulthandler.cancel_dump_traceback_later()
        victim.write_bytes(base.contents[victim])
    (tally.refused if loaded is None else tally.loaded)[base.name] += 1
    found = found or _wasteful(_peak() - before, base, loaded) or _changed(base, victim, content, loaded)
    if found:
        tally.wrong.append(f"{base.name}, {victim.name}: {found}")


def _wasteful(taken, base, loaded):
    allowed = 2 * max(base.size, 0 if loaded is None else loaded.images.nbytes) + ROOM
    return f"{taken} bytes taken, {allowed} allowed" if taken > allowed else None


def _changed(base, victim, content, loaded):
    if loaded is None:
        return None
    if not np.isfinite(loaded.images).all():
        return "NaN in what was loaded"
    cut = len(content) < len(base.contents[victim]) and victim.suffix not in TEXTS and "transforms" not in base.options
    return "a cut file loads as something else" if cut and not np.array_equal(loaded.images, base.images) else None


def _peak(reset=False):
    """The most memory this process has held since the last reset, bytes; 0 where the system does not tell."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        status = Path("/proc/self/status").read_text()
    except OSError:
        return 0
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def run(folder, cases, seed, shape=SMALL, tell=None):
    """Try so many damaged files, the kinds in turn, half of them cut."""
    rng, tally = np.random.default_rng(seed), Tally()
    kinds = list(bases(folder, shape))
    for case in range(cases):
        base = kinds[case % len(kinds)]
        victim, content = damaged(base, rng, cut=case // len(kinds) % 2 == 0)
        if tell:
            tell(f"case {case}: {base.name}, {victim.name}")
        attempt(base, victim, content, tally)
    return tally


if __name__ == "__main__":
    place = Path(sys.argv[1])
    shutil.rmtree(place, ignore_errors=True)
    warnings.simplefilter("error")
    outcome = run(place, int(sys.argv[2]), int(sys.argv[3]), LARGE, lambda text: print(text, file=sys.stderr))
    print("\n".join(outcome.wrong))
    print(f"{outcome.loaded.total()} loaded, {outcome.refused.total()} refused, {len(outcome.wrong)} wrong")
    sys.exit(1 if outcome.wrong else 0)
