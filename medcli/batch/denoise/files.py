"""Input and output of the pipeline: images from files or standard input, results into files or standard output.

A result that is up to date is not made again, and a file that med did not make is not replaced.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import BinaryIO

import numpy as np

from medcli.batch.denoise.manifest import Identity, Manifest
from medcli.batch.denoise.options import FLOAT_DEPTH, SAME_DEPTH
from medcli.batch.denoise.plan import STREAM, Job, is_special
from medcli.batch.denoise.report import Outcome
from medcli.batch.denoise.residuals import ResidualTarget
from medcli.engine.slider_values import Sliders
from medcli.errors import InputError, OutputError
from medcli.files.atomic import atomic_write, hint_for, remove_stale
from medcli.files.checksum import blake2b, blake2b_of
from medcli.files.stores import StorePath, read_object
from medcli.images import MAX_PIXELS, DecodedImage, format_of, read, write
from medcli.images.development import Development
from medcli.images.format_limits import check
from medcli.images.formats import FORMATS, result_format
from medcli.images.rows import LARGE

MANIFESTS = 64  # that are kept open


@dataclass(frozen=True)
class Settings:
    """All options that change the bytes of a result. Device and tile are not among them.

    weights: digest of the weight file. sliders: what is taken away. encoding: how numbers encode light.
    development: of raw files. quality: 1 to
    100, None for the source's; format: None for that of the output's name. upscale: factor of each side. mask: "black",
    or digest of a mask's file. refine, samples, seed: of masks that hide pixels, None for the model's own.
    range: as `medcli.images.values.parse_range` reads it; nodata: the value that means nothing, None for the file's.
    sharpen, sharpen_by, vst, gain, offset, read_noise: see `medcli.api.load`. depth: one of `DEPTHS`.
    """

    weights: str
    sliders: Sliders = field(default_factory=Sliders)
    encoding: str = "auto"
    development: Development = field(default_factory=Development)
    ensemble: bool = False
    sharpen: float = 0.0
    sharpen_by: str = "value"
    precision: str = "auto"
    format: str | None = None
    quality: int | None = None
    upscale: int = 1
    mask: str = ""
    refine: int | None = None
    samples: int | None = None
    seed: int | None = None
    range: str = "auto"
    nodata: float | None = None
    vst: bool = False
    gain: float | None = None
    offset: float | None = None
    read_noise: float | None = None
    depth: str = SAME_DEPTH

    def digest(self) -> str:
        return blake2b(json.dumps(asdict(self), sort_keys=True).encode())


@dataclass(frozen=True)
class Streams:
    """Standard input and output, binary."""

    stdin: BinaryIO
    stdout: BinaryIO


class ImageFiles:
    """Reads and writes the images of one run, and knows what earlier runs have done.

    streams: None where no job reads or writes them.
    keep_time: gives each result the modification time of its input.
    residuals: the files that get what was removed.
    masks: files that shape the results of jobs beside their inputs; one may serve many, and is read once.
    shared: whether other processes write into the same folders meanwhile.
    """

    def __init__(
        self,
        settings: Settings,
        streams: Streams | None,
        *,
        masks: Mapping[Job, Path] | None = None,
        residuals: Mapping[Job, ResidualTarget] | None = None,
        max_pixels: int = MAX_PIXELS,
        keep_time: bool = False,
        shared: bool = False,
    ) -> None:
        self._settings, self._streams, self._max_pixels = settings, streams, max_pixels
        masks = masks or {}
        digests = {path: blake2b_of(path) for path in set(masks.values())}
        self._masks = {job: digests[path] for job, path in masks.items()}
        self._residuals = residuals or {}
        self._manifests: dict[Path, Manifest] = {}
        self._opening, self._shared = Lock(), shared
        self._sources: dict[Job, Identity] = {}
        self._keep_time, self._noted = keep_time, set[str]()
        self._received = b""  # from standard input

    def tidy(self, jobs: Iterable[Job]) -> None:
        """Clears up what processes that are gone left behind where the jobs write: call it before a run and after."""
        roots, folders = set[Path](), set[Path]()
        for job in jobs:
            extra = self._residuals.get(job)
            roots |= {root for root in (job.root, extra and extra.root) if root is not None}
            folders |= {path.parent for path in (job.target, extra and extra.path) if path and path != STREAM}
        remove_stale(folders)
        for root in roots:
            Manifest(root).merge()

    def ended(self, outcome: Outcome) -> None:
        """A job of this run, whoever did it, has ended."""

    def close(self) -> None:
        """Gives the parts of manifests free that this process has written."""
        for manifest in self._manifests.values():
            manifest.close()
        self._manifests.clear()

    def existing_outcome(self, job: Job) -> Outcome | None:
        """The outcome of a job that needs no work or must not be done; None for one to be done."""
        if job.error is not None:
            return Outcome(job, "failed", error=job.error)
        extra = self._residuals.get(job)
        done = [self._existing(job, job.target, job.root)]
        done += [self._existing(job, extra.path, extra.root)] if extra else []
        if failed := next((each for each in done if each and each.status == "failed"), None):
            return failed
        return None if None in done else done[0]

    def _existing(self, job: Job, target: Path, root: Path | None) -> Outcome | None:
        manifest = self._manifest(root) if root else None
        try:
            if target == STREAM or not target.exists() or is_special(target):
                return None
            if manifest and manifest.up_to_date(target, job.source, self._digest(job)):
                return Outcome(job, "skipped")
            if manifest and manifest.made(target):
                return None
        except OSError as error:
            return Outcome(job, "failed", error=OutputError(f"{target}: {error.strerror}.", hint_for(error)))
        what = ", and is no result of an earlier run here, or was changed since" if manifest else " already"
        hint = f"Add --force to overwrite it, or choose another {'-o' if target == job.target else '--residual'}."
        return Outcome(job, "failed", error=OutputError(f"{target} exists{what}.", hint))

    def expected_outcome(self, job: Job) -> Outcome:
        """What is known of a job that is to be done, before its input is read."""
        try:
            missing = job.source != STREAM and not isinstance(job.source, StorePath) and not job.source.exists()
        except OSError as error:
            return Outcome(
                job, "failed", error=InputError(f"{job.source}: {error.strerror}.", "Check its permissions.")
            )
        return Outcome(job, "failed", error=_absent(job)) if missing else Outcome(job, "planned")

    def read(self, job: Job) -> DecodedImage:
        """Raises InputError, OSError; OutputError where the result's format cannot hold what the image has."""
        if job.source == STREAM:
            assert self._streams is not None
            self._received = self._streams.stdin.read()
            how = self._settings.development
            image = read(self._received, name="Standard input", max_pixels=self._max_pixels, development=how)
        elif isinstance(job.source, StorePath):
            self._sources[job] = Identity.of(job.source)
            content, how = read_object(job.source)[0], self._settings.development
            image = read(content, name=str(job.source), max_pixels=self._max_pixels, development=how)
        elif not job.source.exists():
            raise _absent(job)
        else:
            extra = self._residuals.get(job)
            if job.root is not None or (extra and extra.root is not None):
                self._sources[job] = Identity.of(job.source)
            how = self._settings.development
            image = read(job.source, max_pixels=self._max_pixels, development=how, lazy=True)
        name = self._format(job, image)
        check(image, name)
        if self._settings.depth == FLOAT_DEPTH and "float32" not in FORMATS[name].depths:
            raise OutputError(f"{name.upper()} holds no floating-point values.", "Write TIFF: --format tiff.")
        if not self.streams(job, image):
            image.pages = [replace(page, pixels=np.asarray(page.pixels)) for page in image.pages]
        return image

    def streams(self, job: Job, image: DecodedImage) -> bool:
        """Whether the result of a large image can be written while it is being denoised, row by row."""
        settings, page, form = self._settings, image.pages[0], FORMATS[self._format(job, image)]
        file = job.target != STREAM and not is_special(job.target) and job not in self._residuals
        only_denoised = replace(settings.sliders, strength=1.0).neutral and settings.sliders.strength > 0
        only_denoised = only_denoised and settings.upscale == 1 and not settings.mask and settings.depth == SAME_DEPTH
        plain = page.alpha is None and page.nodata is None and settings.nodata is None and len(image.pages) == 1
        encoded = image.metadata.transfer if settings.encoding == "auto" else settings.encoding != "as-is"
        same = FORMATS[image.format] is form and str(page.pixels.dtype) in form.depths
        large = page.pixels.shape[0] * page.pixels.shape[1] >= LARGE
        return (
            large and file and only_denoised and plain and same and form.streams
            and not (encoded or image.metadata.thumbnail)
        )  # fmt: skip

    def write(self, job: Job, image: DecodedImage) -> None:
        """Raises OutputError, OSError. A file appears whole or not at all."""
        if image.residual:
            self._write_residual(job, image)
        if job.target == STREAM or is_special(job.target):
            self._write_stream(image, job)
            return
        with atomic_write(job.target, partial(self._finish, job, image), partial(self._remark, image)) as file:
            self._encode(image, file, job)

    def _write_residual(self, job: Job, image: DecodedImage) -> None:
        """Before the result: if that is there, this one is."""
        extra = self._residuals[job]
        removed = replace(image, pages=image.residual, residual=[], notes=[])
        if image.format == "raw":
            removed.format, removed.metadata = "tiff", replace(image.metadata, native=())
        finish = partial(self._record, job, extra.path, extra.root)
        with atomic_write(extra.path, finish, partial(self._remark, image)) as file:
            write(removed, file, format=format_of(extra.path) or image.format)
        image.remark(*(f"{extra.path.name}: {note}" for note in removed.notes))

    def _write_stream(self, image: DecodedImage, job: Job) -> None:
        """Into a stream, completely or not at all."""
        buffer = io.BytesIO()
        self._encode(image, buffer, job)
        if job.target == STREAM:
            assert self._streams is not None
            self._streams.stdout.write(buffer.getbuffer())
            self._streams.stdout.flush()
        else:
            job.target.write_bytes(buffer.getbuffer())

    def _encode(self, image: DecodedImage, file: BinaryIO, job: Job) -> None:
        settings = self._settings
        unchanged = settings.sliders.strength == 0 and settings.upscale == 1 and settings.quality is None
        if unchanged and self._format(job, image) == image.format:
            image.notes[:] = ["At strength 0 nothing changes: the file was copied."]
            file.write(self._content(job))
            return
        write(image, file, format=self._format(job, image), quality=settings.quality)

    def _content(self, job: Job) -> bytes:
        if isinstance(job.source, StorePath):
            return read_object(job.source)[0]
        return self._received if job.source == STREAM else job.source.read_bytes()

    def _format(self, job: Job, image: DecodedImage) -> str:
        return self._settings.format or format_of(job.target) or result_format(image.format)

    def _remark(self, image: DecodedImage, note: str) -> None:
        """Notes on the file system are given once, not with each image."""
        if note not in self._noted:
            self._noted.add(note)
            image.remark(note)

    def _finish(self, job: Job, image: DecodedImage, finished: Path) -> None:
        """Sets the time of a complete temporary file and records it, just before it is renamed."""
        if self._keep_time and job.source != STREAM:
            times = job.source.stat()
            try:
                os.utime(finished, ns=(times.st_atime_ns, times.st_mtime_ns))
            except OSError as error:
                self._remark(image, f"{job.target.parent} keeps no times of its files: {error.strerror}.")
        self._record(job, job.target, job.root, finished)

    def _record(self, job: Job, target: Path, root: Path | None, finished: Path) -> None:
        if root is not None and (source := self._sources.get(job)):  # none where it came from standard input
            self._manifest(root).record(target, self._digest(job), source, Identity.of(finished))

    def _manifest(self, root: Path) -> Manifest:
        """Of the last folders only: a run over a list of files may have very many."""
        with self._opening:
            if root not in self._manifests:
                if len(self._manifests) >= MANIFESTS:
                    self._manifests.pop(next(iter(self._manifests))).close()
                self._manifests[root] = Manifest(root, shared=self._shared)
            return self._manifests[root]

    def _digest(self, job: Job) -> str:
        """Of all options that change the job's result."""
        return replace(self._settings, mask=self._masks.get(job, self._settings.mask)).digest()


def _absent(job: Job) -> InputError:
    return InputError(f"There is no file {job.source}.")
