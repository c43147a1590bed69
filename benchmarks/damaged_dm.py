"""What a damaged DM3 file costs: tiltfield's reader and RosettaSciIO's, for docs/log.md.

Run with ``python benchmarks/damaged_dm.py``; needs Linux, and RosettaSciIO (``pip install rosettasciio``).
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "io"))
PATIENCE = 60  # seconds


def renamed(content: bytearray) -> bytearray:
    """Give the pixels another name, so that they look like any tag."""
    content[content.rindex(b"\x15\x00\x04Data") + 3] = ord("E")
    return content


def long_text(content: bytearray) -> bytearray:
    """Make the first value a string that takes up nearly all of the file."""
    at = content.index(b"%%%%") + 4
    content[at : at + 12] = b"".join(n.to_bytes(4, "big") for n in (2, 18, 2**24 - 5000))
    return content


def peak(reset: bool = False) -> int:
    """Return the most memory held since the last reset, bytes."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024


def read(reader: str, path: Path) -> None:
    """Read a file and print what that took."""
    if reader == "tiltfield":
        from tiltfield.io.dm import read as reading
    else:
        from rsciio.digitalmicrograph import file_reader as reading
    before, began = peak(reset=True), time.perf_counter()
    try:
        reading(path)
        outcome = "read"
    except Exception as error:
        outcome = type(error).__name__
    taken = (peak() - before) / path.stat().st_size
    print(f"  {reader:12} {outcome:16} {time.perf_counter() - began:6.2f} s, {taken:5.2f} x the file", flush=True)


def main() -> None:
    """Damage one file in two ways, and have both readers read it."""
    from dm_bytes import dm_file

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.dm3"
        image = np.random.default_rng(0).normal(100, 10, (1, 2048, 2048)).astype("f4")
        sound = dm_file(path, image, 3, [10.0], 0.5).read_bytes()
        for damage in (renamed, long_text):
            path.write_bytes(damage(bytearray(sound)))
            print(damage.__name__)
            for reader in ("tiltfield", "RosettaSciIO"):
                worker = multiprocessing.Process(target=read, args=(reader, path))
                worker.start()
                worker.join(PATIENCE)
                if worker.is_alive():
                    print(f"  {reader:12} still reading after {PATIENCE} s")
                    worker.kill()
                    worker.join()


if __name__ == "__main__":
    main()
