"""The folder of a run: what is in it, and how it stays whole whenever the run is killed.

Nothing is created before the input has been accepted: the folder comes into being with the first line of history, the
first checkpoint, or the result. Every file but ``history.jsonl`` is written under a temporary name in the same folder
and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import tiltfield
from tiltfield.config import NOISE_NAMES, ReconstructConfig, read_yaml
from tiltfield.errors import InputError
from tiltfield.jsontext import as_json
from tiltfield.replacing import atomic, clear_parts, remove
from tiltfield.series import TiltSeries

FILES = (
    *("volume.mrc", "rendered.mrc", "preview.png", "report.html"),
    *("metrics.json", "history.jsonl", "config.yaml", "checkpoint.pt"),
)
CHECKPOINT = 2  # what checkpoints hold; raised whenever those of before cannot be gone on from
LOG = "tensorboard"
SERIES = "series.npz"
REPLACED = ".replaced"  # where a run that is replaced waits until there is something to go on with in its place
EVIDENCE = (
    *("evaluation.json", "fsc.png", "residuals.png"),
    *("uncertainty.mrc", "half-even.mrc", "half-odd.mrc"),
)
ASKED_FOR = (  # files and folders that a run may have besides
    *("volume.rec", "volume.ome.zarr", "volume.tif", LOG, SERIES),
    *EVIDENCE,
)


def fingerprint(series: TiltSeries, config: ReconstructConfig | None = None) -> str:
    """Return a digest of images, masks, angles and a fitted noise model, by which a resumed run knows its data again.

    Args:
        series: the series as loaded, binned and oriented.
        config: names the file of the noise model, if there is one; None: there is none.

    Raises:
        InputError: if that file cannot be read.
    """
    digest = hashlib.blake2b(digest_size=16)
    masks = [] if series.valid is None or series.valid.all() else [series.valid]  # a file keeps no mask of nothing
    for array in (series.images, series.angles_deg, *masks):
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    if config is not None and config.noise not in NOISE_NAMES:
        try:
            digest.update(Path(config.noise).read_bytes())
        except OSError as error:
            raise InputError(f"cannot read the noise model {config.noise}: {error.strerror}") from None
    return digest.hexdigest()


class RunFolder:
    """The folder of one run: refuses another's, writes whole files, remembers where to go on.

    Args:
        path: the folder; made with the first write.
        resume: go on with the run it holds.
        overwrite: replace the run it holds.
        to_read: nothing will be written.

    Raises:
        InputError: if it holds a run and neither is set, or both are, or it cannot be written.
    """

    def __init__(
        self, path: str | Path, *, resume: bool = False, overwrite: bool = False, to_read: bool = False
    ) -> None:
        self.path = Path(path)
        self._was_there = self.path.exists()
        self._begun = False
        self._locked: int | None = None
        self._series: TiltSeries | None = None
        self._input: Path | None = None
        present = [name for name in FILES if (self.path / name).exists()]
        if resume and overwrite:
            raise InputError("--resume and --overwrite contradict each other: give one of them")
        if present and not (resume or overwrite):
            raise InputError(
                f"{self.path} holds another run ({', '.join(present)}): go on with it (--resume), "
                "replace it (--overwrite), or choose another folder"
            )
        if not to_read:
            _refuse_unwritable(self.path)
        self.resuming = resume and (self.path / "config.yaml").exists()

    @property
    def finished(self) -> bool:
        """True if the run to be resumed came to its end."""
        return self.resuming and not self.metrics.get("interrupted", True)

    @property
    def metrics(self) -> dict[str, Any]:
        """What metrics.json says, or nothing."""
        return read_metrics(self.path)

    def recorded(self) -> tuple[Path | None, ReconstructConfig]:
        """Return the series and the settings of the run the folder holds.

        Raises:
            InputError: if its config.yaml cannot be used.
        """
        source = self.path / "config.yaml"
        series, settings = take_series(read_yaml(source), str(source))
        return series, ReconstructConfig.parse(settings, str(source))

    def load_checkpoint(self) -> dict[str, Any] | None:
        """Return what `save_checkpoint` wrote, or None if the run was killed before it did.

        Raises:
            InputError: if the file cannot be read, or is of another form.
        """
        import torch

        path = self.path / "checkpoint.pt"
        if not (self.resuming and path.exists()):
            return None
        try:
            # on the CPU, as the device may be another now; mapped, as it is needed for a moment, and may be large: but
            # Windows would not let it be replaced then
            saved = dict(torch.load(path, weights_only=True, map_location="cpu", mmap=sys.platform != "win32"))
            version, kind = saved["run"]["tiltfield"], saved["run"].get("format")
        except Exception as error:
            raise InputError(
                f"{path} is not a checkpoint of tiltfield ({error}); start anew with --overwrite"
            ) from None
        if kind != CHECKPOINT:
            raise InputError(
                f"{path} was written by another tiltfield ({version}) in a form that this one cannot go on from: "
                "go on with that one, or start anew with --overwrite"
            )
        return saved

    def keep(self, series: TiltSeries) -> Path:
        """Return where a series will lie that has no file of its own: in the folder, once the run begins.

        Args:
            series: as it is reconstructed.
        """
        self._series = series
        return self.path / SERIES

    def begin(self, series_path: Path, config: ReconstructConfig) -> None:
        """Make the folder, set the run it replaces aside, and record the settings. Once per run.

        Args:
            series_path: the input.
            config: the settings as asked for.
        """
        if self._begun:
            return
        self._input = series_path.resolve()
        self.path.mkdir(parents=True, exist_ok=True)
        self.lock()
        self._begun = True
        if not self.resuming:
            self._set_aside()
        clear_parts(self.path)
        if self._series is not None:
            self._series.save(self.path / SERIES)
        self.write_config(series_path, config)

    def lock(self) -> None:
        """Keep other processes out of the folder, as long as this one lives or until it is released.

        Raises:
            InputError: if another process has locked it.
        """
        if sys.platform == "win32" or self._locked is not None:
            return
        import fcntl

        self._locked = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise InputError(
                f"another process is writing the run in {self.path}: wait for it, or give another --out"
            ) from None
        except OSError:  # a file system without locks
            self.release()

    def release(self) -> None:
        """Let other processes write the folder."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def discard(self) -> None:
        """Take back what a refused run has written, unless there is something to go on with: the old run is back."""
        if self._begun and not (self.resuming or (self.path / "checkpoint.pt").exists()):
            for path in self._files():
                remove(path)
            if self._aside.exists():
                for path in list(self._aside.iterdir()):
                    path.rename(self.path / path.name)
                self._aside.rmdir()
            if not self._was_there:
                self.path.rmdir()

    def write_config(self, series_path: Path, config: ReconstructConfig) -> None:
        """Write config.yaml: the series and every setting.

        Args:
            series_path: the input.
            config: the settings.
        """
        values = {"series": str(series_path.resolve()), **config.model_dump(mode="json")}
        for name in ("angles", "transforms"):
            if values[name] is not None:
                values[name] = str(Path(values[name]).resolve())
        if config.noise not in NOISE_NAMES:
            values["noise"] = str(Path(config.noise).resolve())
        text = f"# tiltfield {tiltfield.__version__}: run again with: tiltfield reconstruct --config THIS --out DIR\n"
        with atomic(self.path / "config.yaml") as part:
            part.write_text(text + yaml.safe_dump(values, sort_keys=False, allow_unicode=True))

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics.json.

        Args:
            metrics: JSON-ready, up to numbers of numpy; what is not finite becomes null.
        """
        with atomic(self.path / "metrics.json") as part:
            part.write_text(as_json(metrics, indent=2) + "\n")
        remove(self._aside)

    def save_checkpoint(self, state: Mapping[str, Any], digest: str) -> None:
        """Write checkpoint.pt: loads with ``weights_only=True``.

        Args:
            state: tensors and plain values.
            digest: fingerprint of the series.
        """
        import torch

        run: dict[str, Any] = {"tiltfield": tiltfield.__version__, "format": CHECKPOINT, "series": digest}
        run["history"] = self._history_lines()
        with atomic(self.path / "checkpoint.pt") as part:
            torch.save({"run": run, "state": dict(state)}, part)
        remove(self._aside)

    def volume_digest(self) -> str:
        """Return the digest by which an evaluation knows its volume, empty if there is none."""
        path = self.path / "volume.mrc"
        if not path.exists():
            return ""
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    def append_history(self, entry: Mapping[str, Any]) -> None:
        """Append one line to history.jsonl.

        Args:
            entry: JSON-ready, up to numbers of numpy.
        """
        with (self.path / "history.jsonl").open("a") as file:
            file.write(as_json(entry) + "\n")

    def cut_history(self, lines: int) -> None:
        """Drop the lines written after the checkpoint.

        Args:
            lines: how many to keep.
        """
        path = self.path / "history.jsonl"
        if path.exists():
            kept = path.read_text().splitlines(keepends=True)[:lines]
            with atomic(path) as part:
                part.write_text("".join(kept))

    def _history_lines(self) -> int:
        path = self.path / "history.jsonl"
        return path.read_bytes().count(b"\n") if path.exists() else 0

    @property
    def _aside(self) -> Path:
        return self.path / REPLACED

    def _files(self) -> list[Path]:
        """Return what the folder holds of a run, but for the input: it may be the series of the run it replaces."""
        kept = self._input if self._series is None else None
        there = (self.path / name for name in (*FILES, *ASKED_FOR))
        return [path for path in there if path.exists() and path.resolve() != kept]

    def _set_aside(self) -> None:
        """Let the run in the folder wait; what waits already stays, for the files here are then of one killed early."""
        for path in self._files():
            self._aside.mkdir(exist_ok=True)
            waiting = self._aside / path.name
            if waiting.exists():
                remove(path)
            else:
                path.rename(waiting)


def read_metrics(folder: Path) -> dict[str, Any]:
    """Return what the metrics.json of a run says, or nothing.

    Args:
        folder: of the run.
    """
    try:
        return dict(json.loads((folder / "metrics.json").read_text()))
    except (OSError, ValueError):
        return {}


def cut_short(metrics: Mapping[str, Any]) -> bool:
    """Return whether a run ended by its time limit, before its last step.

    Args:
        metrics: of metrics.json.
    """
    return metrics.get("outcome") == "finished" and metrics.get("steps", 0) < metrics.get("steps_in_full", 0)


def take_series(values: Mapping[str, Any], source: str) -> tuple[Path | None, dict[str, Any]]:
    """Return the series that a config.yaml names, and its settings.

    Args:
        values: what the file says.
        source: its name, for messages.

    Raises:
        InputError: if ``series`` is not a path.
    """
    rest = dict(values)
    series = rest.pop("series", None)
    if series is not None and not isinstance(series, str):
        raise InputError(f"{source}: series: expected the path of a tilt series, got {series!r}")
    return (Path(series) if series else None), rest


def _refuse_unwritable(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file: --out takes a folder")
    parent = next(p for p in (path, *path.absolute().parents) if p.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise InputError(f"cannot write to {path}: {parent} is not a writable folder")
