"""Noisy copies of clean images, as files with a manifest, made by one worker or several.

A copy depends on the clean file, its relative name, the noise, the seed and the number of the draw alone, so neither
the number of workers nor an interruption changes it. Workers make files, which appear whole or not at all; this
process keeps the manifest. A copy whose row was lost with a killed run is recognised by its bytes.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medcli import __version__
from medcli.batch.denoise.plan import folds_case
from medcli.batch.denoise.report import Status
from medcli.batch.executors.dispatch import Executor, Lost
from medcli.batch.pairs import Floats, as_floats, as_stored, one_draw, with_noise
from medcli.data.folders import images_in, nested
from medcli.data.pairs import MANIFEST, PAGES, PairRecord, Side, parsed, present, way
from medcli.errors import InputError, MedcliError, OutputError
from medcli.files import jsonl
from medcli.files.atomic import atomic_write, remove_stale
from medcli.files.checksum import sha256
from medcli.images import DecodedImage, Page, format_of, read, write
from medcli.images.filling import broadcast
from medcli.images.formats import FORMATS
from medcli.images.values import RangeChoice, dtype_range, missing, range_of
from medcli.noise.base import Noise, spell
from medcli.noise.chain import Chain
from medcli.noise.pool import Pool
from medcli.seeding import keyed_generator

DEPTHS: Mapping[str, str] = {"8": "uint8", "16": "uint16", "float": "float32"}
LOSSLESS = ("png", "tiff", "bmp")


class NoiseSource(Protocol):
    """What makes an image noisy: a noise with a notation, or a model that has learned one. Workers get a pickle of it.

    name: part of the key of every draw. fingerprint: equal ones mean an equal noise: a pool with its weights, or the
    checksum of a model. makes: which of the two the result is.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def makes(self) -> Side: ...

    def draw(self, clean: Tensor, generator: torch.Generator, /) -> tuple[Tensor, str]:
        """(C, H, W) float in [0, 1] -> (noisy of the same shape, what was drawn with its parameters)."""

    def on(self, device: str) -> NoiseSource:
        """The same noise, drawn with the network on this device where there is one."""


@dataclass(frozen=True)
class NotatedNoise:
    """A noise from `medcli.noise`, with parameters sampled for each page."""

    noise: Noise
    makes: Side = "noisy"

    @property
    def name(self) -> str:
        return str(self.noise)

    @property
    def fingerprint(self) -> str:
        return _spelled(self.noise)

    def draw(self, clean: Tensor, generator: torch.Generator, /) -> tuple[Tensor, str]:
        return one_draw(self.noise, clean, generator)

    def on(self, device: str) -> NotatedNoise:
        return self


@dataclass(frozen=True)
class SynthOptions:
    """What is to be made. clean, noisy: folders. count: draws per image, each in a folder of its own if above 1.

    depth: a key of DEPTHS, None for that of the clean file. format: one of LOSSLESS, None for the clean file's if that
    is lossless and can hold the depth. overwrite: also what is up to date, and files that med did not create.
    range: which values of the clean files are black and white.
    """

    clean: Path
    noisy: Path
    noise_source: NoiseSource
    seed: int = 0
    count: int = 1
    depth: str | None = None
    format: str | None = None
    overwrite: bool = False
    range: RangeChoice = "auto"


@dataclass(frozen=True)
class SynthTask:
    """One noisy copy. source, output: relative to the folders, with slashes. draw: its number, from 0.

    error: why it cannot be made, where that is known from the start.
    """

    source: str
    output: str
    draw: int
    error: MedcliError | None = None


@dataclass(frozen=True)
class SynthOutcome:
    """What became of a task. row: of a copy that is there; error: of one that failed. notes: a line per conversion.

    seconds: that one which is done took.
    """

    task: SynthTask
    status: Status
    row: PairRecord | None = None
    notes: tuple[str, ...] = ()
    error: MedcliError | None = None
    seconds: float = 0.0


class PairManifest:
    """The manifest of a folder, one row per copy: appended to while a run lasts, sorted and written anew in the end."""

    def __init__(self, folder: Path) -> None:
        """Raises OutputError for a file of this name that is something else; a line torn by a killed run is ignored."""
        self._folder, self.path = folder, folder / MANIFEST
        content = self.path.read_bytes() if self.path.exists() else b""
        try:
            self._rows = {row.output: row for row in parsed(content)}
        except (ValueError, TypeError):
            raise OutputError(f"{self.path} is not a manifest of noisy images.", "Choose another --to.") from None

    def past(self, task: SynthTask) -> PairRecord | None:
        """The last row of the task's output."""
        return self._rows.get(task.output)

    def append(self, row: PairRecord) -> None:
        try:
            jsonl.append(self.path, asdict(row))
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written: {error.strerror}.", "Make room.") from error
        self._rows[row.output] = row

    def tidy(self) -> None:
        """One row for each copy that exists, sorted by output; the same rows give the same bytes."""
        rows = [self._rows[output] for output in sorted(self._rows) if (self._folder / output).is_file()]
        content = b"".join(jsonl.line(asdict(row)) for row in rows)
        if self.path.exists() and self.path.read_bytes() != content:
            with atomic_write(self.path) as file:
                file.write(content)


def plan(
    clean: Path, noisy: Path, *, count: int = 1, depth: str | None = None, format: str | None = None
) -> list[SynthTask]:
    """Every draw of every image, in a stable order, each with an output of its own. Options: see
    `SynthOptions`.

    Raises InputError for a folder without images, OutputError where the folders lie in one another or where two
    images would become one.
    """
    _refuse_overlap(clean, noisy)
    folders = [f"{draw:04d}/" for draw in range(count)] if count > 1 else [""]
    locked: dict[Path, InputError] = {}
    names = images_in(clean, locked)
    outputs = [_output(name, depth, format).as_posix() for name in names]
    _refuse_collisions(names, outputs, noisy)
    pairs = zip(names, outputs, strict=True)
    tasks = [SynthTask(name.as_posix(), f + output, draw) for name, output in pairs for draw, f in enumerate(folders)]
    return tasks + [SynthTask(name.as_posix(), name.as_posix(), 0, error) for name, error in locked.items()]


def dry_run(options: SynthOptions, tasks: Sequence[SynthTask]) -> Generator[SynthOutcome, None, None]:
    """What `synthesise` would skip, and what it would make."""
    manifest = PairManifest(options.noisy)
    for task in tasks:
        past = manifest.past(task)
        if task.error is not None:
            yield SynthOutcome(task, "failed", error=task.error)
            continue
        try:
            current = past and _is_current(past, task, options, sha256((options.clean / task.source).read_bytes()))
            yield SynthOutcome(task, "skipped", past) if current else SynthOutcome(task, "planned")
        except OSError as error:
            yield _failed(error, task, options)


Todo = tuple[SynthTask, PairRecord | None]  # what to make, and the row of an earlier run for the same output


@dataclass(frozen=True)
class SynthWork:
    """Makes noisy copies, see `executors.dispatch.Work`."""

    options: SynthOptions

    def opened(self, device: str) -> Callable[[Todo], SynthOutcome]:
        source = self.options.noise_source
        source = source if device == "auto" else source.on(device)
        return partial(make, options=replace(self.options, noise_source=source))


def synthesise(
    options: SynthOptions, tasks: Sequence[SynthTask], executor: Executor
) -> Generator[SynthOutcome, None, None]:
    """Makes the copies and yields the outcome of each, in the order of the tasks; those up to date are skipped.

    An image that cannot be read or written, and one whose process is killed, is yielded as failed. Stopping early
    (closing the iterator, Ctrl-C) lets the files in progress be finished. Raises OutputError for a manifest that cannot
    be kept.
    """
    manifest = PairManifest(options.noisy)
    folders = {(options.noisy / task.output).parent for task in tasks}
    remove_stale(folders)
    todo = [(task, manifest.past(task)) for task in tasks]
    early: dict[int, SynthOutcome] = {}
    due = 0
    with _without_stale(folders), closing(executor.run(SynthWork(options), todo)) as results:
        for number, result in results:
            made = _failed(result, tasks[number], options) if isinstance(result, Lost) else result
            if made.row and made.row != manifest.past(made.task):
                manifest.append(made.row)
            early[number] = made
            while due in early:
                yield early.pop(due)
                due += 1
    manifest.tidy()


@contextmanager
def _without_stale(folders: set[Path]) -> Iterator[None]:
    """In the end nothing is left of what a worker was writing that had to be killed."""
    try:
        yield
    finally:
        remove_stale(folders)


def make(todo: Todo, options: SynthOptions) -> SynthOutcome:
    """One noisy copy, unless it is there already."""
    started = time.perf_counter()
    try:
        if error := todo[0].error:
            raise error
        return replace(_made(*todo, options), seconds=time.perf_counter() - started)
    except (MedcliError, OSError, MemoryError) as error:
        return _failed(error, todo[0], options)


def add_noise(image: DecodedImage, task: SynthTask, options: SynthOptions) -> tuple[str, str]:
    """Makes the colours of `image` noisy in place, in the depth of `options`; returns what was drawn, and the protocol.

    Draw 0 is that of `med eval` for the same seed, noise and name; further draws add their number to the key. Pages are
    drawn one after the other. Values that are not finite count as black or white, and floats keep them.
    What is no data stays. Raises InputError where the noise does not fit the image.
    """
    values = range_of(options.range, image.pages)
    generator = keyed_generator(
        options.seed, options.noise_source.name, task.source, *([task.draw] if task.draw else [])
    )
    own, drawn = dtype_range(image.pages[0].pixels.dtype), []
    for number, page in enumerate(image.pages):
        depth = DEPTHS[options.depth] if options.depth else str(page.pixels.dtype)
        span = values if depth == page.pixels.dtype else None
        noisy, words = _noisy(as_floats(page.pixels, values), options.noise_source, generator, keep=depth == "float32")
        alpha = page.alpha
        if alpha is not None and alpha.dtype != depth:
            alpha = as_stored(as_floats(alpha), depth)
        pixels, lost = as_stored(noisy, depth, span), missing(page.pixels, page.nodata)
        if span and lost is not None:
            np.copyto(pixels, page.pixels, where=broadcast(lost, pixels))
        image.pages[number] = Page(pixels, alpha)
        drawn.append(words)
    depths = dict.fromkeys(str(page.pixels.dtype) for page in image.pages)
    notes = [] if values == own else [f"range {values.words}"]
    return PAGES.join(drawn if len(set(drawn)) > 1 else drawn[:1]), "; ".join([*notes, *map(_protocol, depths)])


def _spelled(noise: Noise) -> str:
    if isinstance(noise, Pool):
        return "(" + "|".join(f"{spell(weight)}*{_spelled(each)}" for weight, each in noise.noises) + ")"
    return "+".join(map(_spelled, noise.noises)) if isinstance(noise, Chain) else str(noise)


def _refuse_overlap(clean: Path, noisy: Path) -> None:
    if noisy.exists() and not noisy.is_dir():
        raise OutputError(f"{noisy} is a file.", "Let --to name a folder.")
    if nested(clean, noisy):
        raise OutputError(
            f"{noisy} would mix noisy images with the clean ones of {clean}.",
            "Neither folder may lie in the other: choose another --to.",
        )


def _output(name: Path, depth: str | None, format: str | None) -> Path:
    """The relative name of a copy: that of its source, but for the extension where the source's will not do."""
    named = format_of(name)
    if format:
        wanted = format
    elif named in LOSSLESS and (depth is None or DEPTHS[depth] in FORMATS[named].depths):
        wanted = named
    else:
        wanted = "tiff" if depth == "float" else "png"
    return name if named == wanted else name.with_suffix(FORMATS[wanted].suffixes[0])


def _refuse_collisions(names: Sequence[Path], outputs: Sequence[str], folder: Path) -> None:
    folds = folds_case(folder)
    taken: dict[str, Path] = {}
    for name, output in zip(names, outputs, strict=True):
        first = taken.setdefault(output.casefold() if folds else output, name)
        if first is not name:
            raise OutputError(f"Both {first} and {name} would become {output}.", "Rename one of them.")


def _is_current(past: PairRecord, task: SynthTask, options: SynthOptions, source_sha256: str) -> bool:
    """Whether the past row is what would be made now, and its file is there."""
    wanted = (
        task.source,
        task.draw,
        options.seed,
        options.noise_source.name,
        options.noise_source.fingerprint,
        options.depth,
        str(options.range),
    )
    known = (past.source, past.draw, past.seed, past.noise, past.fingerprint, past.depth, past.range)
    if options.overwrite or (*known, past.source_sha256) != (*wanted, source_sha256):
        return False
    return past.output_sha256 == present(options.noisy / task.output)


def _made(task: SynthTask, past: PairRecord | None, options: SynthOptions) -> SynthOutcome:
    source, target = options.clean / task.source, options.noisy / task.output
    content = source.read_bytes()
    stamp = sha256(content)
    if past and _is_current(past, task, options, stamp):
        return SynthOutcome(task, "skipped", replace(past, folder=way(options.noisy, options.clean)))
    image = read(content, name=str(source))
    drawn, protocol = add_noise(image, task, options)
    encoded = _encoded(image, target)
    row = PairRecord(
        source=task.source,
        folder=way(options.noisy, options.clean),
        output=task.output,
        makes=options.noise_source.makes,
        draw=task.draw,
        seed=options.seed,
        noise=options.noise_source.name,
        fingerprint=options.noise_source.fingerprint,
        drawn=drawn,
        depth=options.depth,
        protocol=protocol,
        source_sha256=stamp,
        output_sha256=sha256(encoded),
        medcli=__version__,
        range=str(options.range),
    )
    _write(encoded, target, (row.output_sha256, past.output_sha256 if past else ""), options)
    return SynthOutcome(task, "done", row, tuple(image.notes))


def _write(encoded: bytes, target: Path, ours: tuple[str, str], options: SynthOptions) -> None:
    """Writes the file unless it is there. ours: digests that a file to be replaced may have, the new one first."""
    there = present(target)
    if there and there not in ours and not options.overwrite:
        problem = f"{target} exists, and is no result of an earlier run here, or was changed since."
        raise OutputError(problem, "Add --overwrite to replace it, or choose another --to.")
    if there != ours[0]:
        with atomic_write(target) as file:
            file.write(encoded)


def _noisy(clean: Floats, noise_source: NoiseSource, generator: torch.Generator, *, keep: bool) -> tuple[Floats, str]:
    """(H, W) or (H, W, 3) -> the same with noise, and what was drawn. keep: give back values that are not finite."""
    finite = np.isfinite(clean)
    sound = clean if finite.all() else np.nan_to_num(clean, nan=0.0, posinf=1.0, neginf=0.0)
    pixels, words = with_noise(sound, noise_source.name, noise_source.draw, generator)
    return (np.where(finite, pixels, clean) if keep else pixels), words


def _protocol(depth: str) -> str:
    if np.dtype(depth).kind == "f":
        return "noise added in float, clipped and rounded only where the noise says so"
    return f"noise added in float, clipped at the end, rounded to {np.iinfo(depth).bits} bits"


def _encoded(image: DecodedImage, target: Path) -> bytes:
    """The file's content; raises OutputError where the format would change the values."""
    name = format_of(target) or "png"
    for page in image.pages:
        if str(page.pixels.dtype) not in FORMATS[name].depths:
            raise OutputError(f"{name.upper()} cannot hold {page.pixels.dtype}.", "Choose a --depth, or --format tiff.")
    buffer = io.BytesIO()
    write(image, buffer, format=name)
    return buffer.getvalue()


def _failed(error: MedcliError | OSError | MemoryError | Lost, task: SynthTask, options: SynthOptions) -> SynthOutcome:
    """The error with the name of the image."""
    source = str(options.clean / task.source)
    if isinstance(error, Lost):
        hint = "If memory ran out, try fewer --workers; the same command goes on with what is missing."
        named = MedcliError(f"{source}: the process that worked on it {error.how}.", hint)
    elif isinstance(error, MemoryError):
        named = InputError(f"{source}: there is not enough memory for this image.", "Try fewer --workers.")
    elif isinstance(error, OSError):
        named = InputError(f"{error.filename or source}: {error.strerror or error}.")
    elif source in error.problem or str(options.noisy / task.output) in error.problem:
        named = error
    else:
        named = type(error)(f"{source}: {error.problem}", error.hint)
    return SynthOutcome(task, "failed", error=named)
