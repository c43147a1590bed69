"""One run from its request to its files: load, reconstruct, write; and going on where a killed run was."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tiltfield
from tiltfield import ranks
from tiltfield.config import NOISE_NAMES, ExportConfig, ReconstructConfig
from tiltfield.errors import InputError
from tiltfield.observe import Observer
from tiltfield.replacing import atomic
from tiltfield.runfolder import LOG, RunFolder, cut_short, fingerprint
from tiltfield.series import TiltSeries

if TYPE_CHECKING:
    from tiltfield.reconstruct import Reconstruction
    from tiltfield.report.record import Record
    from tiltfield.report.tensorboard import TensorBoard

HARMLESS = ("max_time", "threads", "device", "log", *ExportConfig.model_fields)  # may change when a run is resumed
BY_CONTENT = ("angles", "transforms", "noise")  # files that may have moved: what they say is compared


class RunObserver(Observer):
    """Keeps the record of a run and passes on what there is to see.

    Args:
        folder: where to write.
        series_path: the input.
        config: the settings as asked for.
        digest: fingerprint of the series.
        screen: shows messages and progress.
    """

    def __init__(
        self, folder: RunFolder, series_path: Path, config: ReconstructConfig, digest: str, screen: Observer
    ) -> None:
        self.folder, self.config, self.screen, self.digest = folder, config, screen, digest
        self.notes: list[str] = []
        self._begin: Callable[[], None] = lambda: folder.begin(series_path, config)
        self._log = _log(folder, config)
        self._silent = False  # about a history that cannot be written

    def say(self, message: str) -> None:
        """Show a message and note it for metrics.json."""
        self.notes.append(message)
        self.screen.say(message)

    def progress(self, stage: str, done: float, seconds_left: float | None, figures: Mapping[str, float]) -> None:
        """Show the state of a stage."""
        self.screen.progress(stage, done, seconds_left, figures)

    def record(self, entry: Mapping[str, Any]) -> None:
        """Append to history.jsonl, and to the log that was asked for."""
        self._begin()
        try:
            self.folder.append_history(entry)
        except OSError as error:  # as with the checkpoint
            if not self._silent:
                self.say(f"warning history.jsonl: could not be written, curves will lack what comes now ({error})")
            self._silent = True
        if self._log is not None:
            self._log.record(entry)
        self.screen.record(entry)

    def checkpoint(self, state: Mapping[str, Any]) -> None:
        """Write checkpoint.pt; if that is not possible, say so: it must not cost the run."""
        self._begin()
        try:
            self.folder.save_checkpoint(state, self.digest)
        except (OSError, RuntimeError) as error:  # torch raises the latter where a disk is full
            self.say(f"warning checkpoint.pt: could not be written, the run cannot be resumed from here ({error})")
            return
        self.screen.checkpoint(state)

    def finish(self, series: TiltSeries, result: Reconstruction, series_path: Path) -> None:
        """Write the result; metrics.json comes last, and means that all is there.

        Args:
            series: the data.
            result: what was made of it.
            series_path: where the data came from.
        """
        from tiltfield.io import write_stack, write_volume
        from tiltfield.report import save_preview

        self._begin()
        command = command_of(series_path, self.config)
        with ranks.undisturbed():
            write_volume(result.volume, self.folder.path / "volume.mrc", [command])
            write_stack(result.rendered, self.folder.path / "rendered.mrc", series.pixel_size_nm)
            if result.state is not None:
                self.checkpoint(result.state)
            if not result.interrupted:  # an interrupted run goes on with the settings it was asked for
                self.folder.write_config(series_path, result.config)
        with atomic(self.folder.path / "preview.png") as part:
            save_preview(part, series, result)
        problem = self._export(result, command)
        head = {"tiltfield": tiltfield.__version__, "interrupted": result.interrupted}
        self.folder.write_metrics({**head, **result.metrics, "notes": self.notes})
        self._report(series, result, series_path)
        if self._log is not None:
            self._log.close()
        if problem is not None:
            raise InputError(f"the run in {self.folder.path} is complete, but was not written as asked: {problem}")

    def _report(self, series: TiltSeries, result: Reconstruction, series_path: Path) -> None:
        """Make report.html; all else is saved, and what is wrong with the report must not cost the run."""
        from tiltfield.report import save_report
        from tiltfield.report.record import read_record

        path = self.folder.path
        try:
            record = read_record(path, series_path, series=series, volume=result.volume, rendered=result.rendered)
            save_report(record, path / "report.html")
        except (Exception, KeyboardInterrupt) as error:
            self.screen.say(f"no report was made ({type(error).__name__}: {error}); try: tiltfield report {path}")

    def _export(self, result: Reconstruction, command: str) -> InputError | None:
        """Write the volume for other programs; what is wrong with that must not cost the run."""
        from tiltfield.export import export, make_image, outputs

        files = outputs(self.folder.path / "volume", result.config)
        if not files:
            return None
        try:
            image = make_image(result.volume, result.config, about=(command,))
            if image.is_plain:  # then volume.mrc is what was asked for
                files.pop("mrc", None)
            export(image, files, self.screen)
        except InputError as error:
            return error
        except KeyboardInterrupt:
            return InputError(f"stopped while it was written; do it again with tiltfield convert {self.folder.path}")
        for path in files.values():
            self.say(f"wrote {path.name} ({image})")
        return None


def open_run(folder: str | Path) -> Record:
    """Open the folder of a run.

    Args:
        folder: of ``tiltfield reconstruct``, or `out` of :func:`tiltfield.reconstruct.reconstruct`.

    Returns:
        the volume, its images, figures, settings and evaluation; and the series, if it is still where it was.

    Raises:
        InputError: if there is no result in it, or a file is damaged.
    """
    from tiltfield.report.record import read_record

    return read_record(Path(folder))


def _log(folder: RunFolder, config: ReconstructConfig) -> TensorBoard | None:
    if config.log == "none":
        return None
    from tiltfield.report.tensorboard import TensorBoard

    return TensorBoard(folder.path / LOG)


def command_of(series_path: Path, config: ReconstructConfig) -> str:
    """Return the command that makes a run, for the headers of its files.

    Args:
        series_path: the input; only its name is told.
        config: the settings.
    """
    return shlex.join(["tiltfield", "reconstruct", series_path.name, *config.flags()])


@dataclass(frozen=True)
class Request:
    """What is asked of a run.

    Attributes:
        out: the run's folder.
        series: the input; one in memory is kept in the folder; None where the settings or the folder name it.
        settings: those given, by name; the rest are defaults or, on resuming, the folder's.
        resume: go on with the run in the folder.
        overwrite: replace it.
        began: when it was asked, on the clock of :func:`time.perf_counter`; a limit on time counts from there.
    """

    out: Path
    series: Path | TiltSeries | None
    settings: Mapping[str, Any]
    resume: bool = False
    overwrite: bool = False
    began: float = field(default_factory=time.perf_counter)


def run(request: Request, screen: Observer) -> Reconstruction | None:
    """Carry out a run: load, reconstruct, write.

    Args:
        request: what is asked.
        screen: shows messages and progress.

    Returns:
        the result, or None if the run to be resumed is finished already (and not given more time than the limit that
        cut it short), or is another process's to write.

    Raises:
        InputError: if the input, the settings or the folder cannot be used; then nothing has been written.
    """
    with ranks.patient(), ranks.joined():
        if ranks.index() == 0:
            return _lead(request, screen)
        _follow()
        return None


@dataclass(frozen=True, eq=False)
class _Task:
    """What the first of several processes tells the others, who read and write nothing."""

    series: TiltSeries
    config: ReconstructConfig
    state: Mapping[str, Any] | None

    def reconstruct(self, observer: Observer, began: float) -> Reconstruction:
        from tiltfield.forecast import knowing
        from tiltfield.reconstruct import expected, reconstruct

        if self.state is None:
            known = knowing(self.config, self.series.pixel_size_nm)
            observer.say(f"expected to take {expected(self.series.images.shape, known)}")
        return reconstruct(self.series, self.config, observer=observer, resume=self.state, began=began)


def _lead(request: Request, screen: Observer) -> Reconstruction | None:
    from tiltfield.io import load

    with ExitStack() as held:
        with _followed() as tell:
            folder = RunFolder(request.out, resume=request.resume, overwrite=request.overwrite)
            if folder.finished:
                _refuse_another(folder, request.settings)
                if not _has_more_time(folder, request.settings):
                    return None
            held.callback(folder.release)
            series_path, config = _settle(request, folder, screen)
            known = request.series
            series = known if isinstance(known, TiltSeries) else load(series_path, **config.reading)
            digest = fingerprint(series, config)
            observer = RunObserver(folder, series_path, config, digest, screen)
            for line in series.summary():
                observer.say(line)
            saved = _checkpoint_of(folder, digest, screen)
            task = _Task(series, config, saved["state"] if saved else None)
            tell(task)
        with _undone_if_refused(folder):
            result = task.reconstruct(observer, request.began)
        observer.finish(series, result, series_path)
    return result


@contextmanager
def _followed() -> Iterator[Callable[[_Task], None]]:
    """Give what tells the other processes their task; that there is none, if it comes to none."""
    told: list[_Task] = []
    try:
        yield told.append
    finally:
        ranks.first_says(told[0] if told else None)


def _follow() -> None:
    """Take part in the first process's task."""
    task = ranks.first_says(None)
    if task is not None:
        task.reconstruct(Observer(), time.perf_counter())


@contextmanager
def _undone_if_refused(folder: RunFolder) -> Iterator[None]:
    try:
        yield
    except InputError:
        folder.discard()
        raise


def _settle(request: Request, folder: RunFolder, screen: Observer) -> tuple[Path, ReconstructConfig]:
    """Return series and settings: those given, or on resuming the folder's where they agree."""
    series = folder.keep(request.series) if isinstance(request.series, TiltSeries) else request.series
    if folder.resuming:
        recorded_series, recorded = folder.recorded()
        series = series or recorded_series
        config = agreed(recorded, request.settings, folder.path)
    else:
        config = ReconstructConfig.parse(dict(request.settings), "settings")
        if request.resume and series is None:
            raise InputError(f"nothing to go on with: {folder.path} holds no run of tiltfield reconstruct")
        if request.resume:
            screen.say(f"nothing to go on with in {folder.path}: starting afresh")
    if series is None:
        raise InputError("no tilt series given: name the file, as in 'tiltfield reconstruct SERIES --out DIR'")
    return series, config


def agreed(recorded: ReconstructConfig, settings: Mapping[str, Any], folder: Path) -> ReconstructConfig:
    """Return the recorded settings with the harmless ones given anew.

    Args:
        recorded: those of the run in the folder.
        settings: those given now, by name.
        folder: of the run, for the message.

    Raises:
        InputError: if they contradict each other.
    """
    given = ReconstructConfig.parse({**recorded.model_dump(), **settings}, "settings")
    new = {name: getattr(given, name) for name in settings}
    for name, value in new.items():
        old = getattr(recorded, name)
        moved = name in BY_CONTENT and not {value, old} & set(NOISE_NAMES)
        if value != old and not moved and name not in HARMLESS:
            raise InputError(
                f"the run in {folder} began with {name} = {old}, now {name} = {value} is given: leave it out to go on, "
                "or start anew in another folder"
            )
    return recorded.model_copy(update=new)


def _refuse_another(folder: RunFolder, settings: Mapping[str, Any]) -> None:
    """Refuse settings that contradict those of a finished run, whose folder has what became of "auto"."""
    agreed(folder.recorded()[1], {name: value for name, value in settings.items() if value != "auto"}, folder.path)


def _has_more_time(folder: RunFolder, settings: Mapping[str, Any]) -> bool:
    """Return whether a finished run, which a time limit had cut short, is given a longer one."""
    limit, now = folder.recorded()[1].max_time, settings.get("max_time")
    return cut_short(folder.metrics) and limit is not None and now is not None and now > limit


def _checkpoint_of(folder: RunFolder, digest: str, screen: Observer) -> dict[str, Any] | None:
    if folder.resuming:
        folder.lock()
    saved = folder.load_checkpoint()
    if saved is None:
        if folder.resuming:
            screen.say(f"the run in {folder.path} ended before its first checkpoint: starting afresh")
            folder.cut_history(0)
        return None
    if saved["run"]["series"] != digest:
        raise InputError(
            f"the images, masks, angles or noise model are not those that the run in {folder.path} began with"
        )
    folder.cut_history(saved["run"]["history"])
    screen.say(f"going on with the run in {folder.path}")
    return saved
