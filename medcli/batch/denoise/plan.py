"""From what a user typed to a list of jobs: which image is read, and which file its result becomes.

Nothing is decoded and nothing is written here. What would destroy an image or merge two results is refused before the
first one is touched.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from medcli.batch.denoise.manifest import Manifest
from medcli.batch.shards import Shard
from medcli.data.folders import skipped
from medcli.errors import InputError, MedcliError, OutputError
from medcli.files.stores import StorePath, is_url
from medcli.images.formats import FORMATS, KNOWN, format_of, result_format, supported

SUFFIX = ".denoised"
STREAM = Path("-")
LONGEST_NAME = 255  # bytes; the limit of nearly all file systems


@dataclass(frozen=True)
class Job:
    """One image to be denoised.

    source, target: the file to read and the file to write; STREAM is standard input or output.
    root: the folder whose manifest remembers the result, or None where a single file is named.
    error: why it cannot be done, where that is known from the start; `source` may then be a folder.
    """

    source: Path
    target: Path
    root: Path | None = None
    error: MedcliError | None = field(default=None, compare=False)


@dataclass(frozen=True)
class OutputNaming:
    """How results are called.

    output: the file or folder of -o, or None: beside the input.
    suffix: put before the extension; None means `.denoised` beside the input and nothing in another folder.
    format: a key of FORMATS, or None to keep the input's.
    folder: whether -o was written with a slash at its end, and so names a folder even if it looks like a file.
    """

    output: Path | None = None
    suffix: str | None = None
    format: str | None = None
    folder: bool = False

    def name(self, source: Path, default_suffix: str = "") -> str:
        """The file name of the result of `source`."""
        suffix = default_suffix if self.suffix is None else self.suffix
        return f"{source.stem}{suffix}{self._extension(source)}"

    def _extension(self, source: Path) -> str:
        own = format_of(source)
        wanted = self.format or (result_format(own) if own else None)
        return source.suffix if wanted == own or wanted is None else FORMATS[wanted].suffixes[0]

    def origin(self, path: Path) -> str | None:
        """The stem of the image that this is the result of, if its name may say so."""
        found = next((suffix for suffix in (SUFFIX, self.suffix) if suffix and path.stem.endswith(suffix)), None)
        return None if found is None else path.stem.removesuffix(found)


def make_plan(
    inputs: Sequence[Path],
    naming: OutputNaming,
    *,
    listed: Sequence[Path] | None = None,
    recursive: bool = False,
    force: bool = False,
    say: Callable[[str], None] | None = None,
    prefer: str = "both",
) -> list[Job]:
    """The jobs for these files and folders, in a stable order, each result having a name of its own.

    prefer: raw or jpeg, where a raw file and a JPEG have one name in one folder.
    listed: more of them, from a list, None where there is none. Of files in a list with relative names the folders are
    mirrored in -o, as a list may hold files of many.
    A file that is given by several names is done once; `say` is called with a line. A subfolder that cannot be read,
    and a result whose name would be too long, become jobs with an `error`.
    Raises InputError for a folder without images, OutputError where a result would replace an input (unless `force`
    and one file is named by -o) or where two results would have one name.
    """
    if len(inputs) == 1 and listed is None and not is_folder(inputs[0]):
        jobs = [_single(inputs[0], naming)]
        may_replace = force and naming.output == jobs[0].target
    else:
        _expect_folder(naming)
        listed = listed or ()
        named = {(given.parent, given.stem) for given in (*inputs, *listed)}
        found = [_jobs(given, naming, recursive, named) for given in inputs]
        found += [_jobs(given, naming, recursive, named, mirrored=True) for given in listed]
        jobs = list(dict.fromkeys(chain.from_iterable(found)))
        jobs = _once(jobs, {*inputs, *listed}, say) if len(inputs) + len(listed) > 1 else jobs
        jobs = jobs if prefer == "both" else _preferred(jobs, prefer)
        may_replace = False
    jobs = [_with_fitting_name(job) for job in jobs]
    if not may_replace:
        _refuse_to_replace_inputs(jobs, named=len(jobs) == 1)
    _refuse_collisions(jobs)
    return jobs


def _preferred(jobs: Sequence[Job], prefer: str) -> list[Job]:
    """Without the raw files that have a JPEG beside them, or the other way round."""

    def kind(job: Job) -> str:
        named = format_of(job.source)
        return {"raw": "raw", "dng": "raw", "jpeg": "jpeg"}.get(named or "", "")

    def name(job: Job) -> tuple[Path, str]:
        return job.source.parent, job.source.stem.casefold()

    chosen = {name(job) for job in jobs if kind(job) == prefer}
    return [job for job in jobs if kind(job) in ("", prefer) or name(job) not in chosen]


def parse_list(content: bytes) -> list[Path]:
    """The names in a list of files: ended by zero bytes where there is one, else one a line; empty ones are left out.

    Raises InputError where there is none.
    """
    names = content.split(b"\0") if b"\0" in content else content.splitlines()
    texts = [os.fsdecode(name) for name in names if name]
    found = [StorePath.of(text) if is_url(text) else Path(text) for text in texts]
    if not found:
        raise InputError("The list of files is empty.", "Write one name a line, or end names with zero bytes.")
    return found


def in_shard(job: Job, shard: Shard) -> bool:
    """Whether the job is one of the shard's."""
    inside = job.target.relative_to(job.root) if job.root is not None else Path(job.target.name)
    return inside.as_posix() in shard


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name; one behind a locked door is none."""
    try:
        return path.is_dir()
    except OSError:
        return False


def is_special(path: Path) -> bool:
    """Whether this is a device, a named pipe or a socket, into which a result is written as into a stream."""
    try:
        return path.exists() and not path.is_file() and not path.is_dir()
    except OSError:
        return False


def _once(jobs: Sequence[Job], given: Set[Path], say: Callable[[str], None] | None) -> list[Job]:
    """Without files that were given before by another name: a link, or a path written otherwise.

    Of links that lie in a folder each has a result of its own, as the folder is mirrored.
    """
    seen, kept = dict[object, Job](), list[Job]()
    for job in jobs:
        key = _inode(job.source)
        first = seen.setdefault((key, None if job.source in given else _absolute(job.target)), job)
        if key is None or first is job:
            kept.append(job)
        elif say is not None:
            say(f"{job.source} is the same file as {first.source}, and is done once")
    return kept


def _with_fitting_name(job: Job) -> Job:
    length = len(os.fsencode(job.target.name))
    if length <= LONGEST_NAME or job.error is not None:
        return job
    problem = f"The name of the result of {job.source} would have {length} bytes; a file system takes {LONGEST_NAME}."
    return replace(job, error=OutputError(problem, "Give a shorter name with -o, or a shorter --suffix."))


def _single(source: Path, naming: OutputNaming) -> Job:
    """The job of one named file; -o is a file if it has an extension and is no folder, else a folder."""
    output = naming.output
    if output == STREAM or (source == STREAM and output is None):
        return Job(source, STREAM)
    if output is None:
        return Job(source, source.with_name(naming.name(source, SUFFIX)))
    if is_special(output):
        return Job(source, output)
    if output.suffix and not naming.folder and not is_folder(output):
        _expect_format(output, naming.format)
        return Job(source, output)
    if source == STREAM:
        raise OutputError(f"-o {output} is no file name for the image from standard input.", "Try -o clean.png")
    return Job(source, output / naming.name(source))


def _expect_format(output: Path, format: str | None) -> None:
    named = format_of(output)
    if format is None and (named is None or FORMATS[named].result):
        raise OutputError(f"The name {output} does not say which format to write.", f"{KNOWN} are written.")
    if format is not None and named not in (None, format):
        raise OutputError(f"-o {output} means {named}, but --format {format}.", "Leave one of them out.")


def _expect_folder(naming: OutputNaming) -> None:
    output = naming.output
    if output is None or is_folder(output):
        return
    if output == STREAM or output.exists() or (supported(output) and not naming.folder):
        raise OutputError(f"-o {output} names one file, but there can be many results.", "Let -o name a folder.")


def _jobs(
    given: Path, naming: OutputNaming, recursive: bool, named: Set[tuple[Path, str]], mirrored: bool = False
) -> Iterator[Job]:
    """named: folder and stem of all that is given. mirrored: whether the folders of a relative path are kept."""
    if is_folder(given):
        yield from _folder_jobs(given, naming, recursive)
    elif (given.parent, naming.origin(given)) in named:
        return  # beside the image that it was made of, as in a run over `*.jpg`
    elif naming.output is None:
        yield Job(given, given.with_name(naming.name(given, SUFFIX)), given.parent)
    else:
        name = naming.name(given)
        inside = given.with_name(name) if mirrored and not given.is_absolute() and ".." not in given.parts else name
        yield Job(given, naming.output / inside, naming.output)


def _folder_jobs(folder: Path, naming: OutputNaming, recursive: bool) -> Iterator[Job]:
    root = naming.output or _sibling(folder)
    locked: dict[Path, InputError] = {}
    sources = list(_images(folder, naming, recursive, locked))
    if not sources and _inode(root) != _inode(folder):  # it may hold results alone, from which this run goes on
        sources = list(_images(folder, naming, recursive, locked, results=True))
    if folder in locked:
        raise locked[folder]
    if not sources and not locked:
        others = skipped([folder], recursive, SUFFIX)
        raise InputError(
            f"The folder {folder} holds no image to denoise{f' ({others})' if others else ''}.",
            "" if recursive else "Add --recursive to look into its subfolders.",
        )
    for source in sources:
        inside = source.relative_to(folder)
        yield Job(source, root / inside.with_name(naming.name(source)), root)
    for subfolder, error in locked.items():
        yield Job(subfolder, root / subfolder.relative_to(folder), root, error)


def _sibling(folder: Path) -> Path:
    """`photos.denoised` beside `photos`."""
    if folder.name in ("", ".."):
        folder = folder.resolve()
    if not folder.name:
        raise OutputError(f"There is no folder beside {folder}.", "Name an output folder with -o.")
    return folder.with_name(folder.name + SUFFIX)


def _images(
    folder: Path, naming: OutputNaming, recursive: bool, locked: dict[Path, InputError], results: bool = False
) -> Iterator[Path]:
    """Images in a folder by name; hidden files and the results of earlier runs are passed over.

    Whoever names a suffix may have images that end so: they are results only beside the image they were made of.
    locked: gets the folders that cannot be read. results: take those that earlier runs put into the folder itself.
    """
    earlier: set[Path] = set()

    def note_locked(error: OSError) -> None:
        problem = f"The folder {error.filename} cannot be read: {error.strerror}."
        locked[Path(error.filename)] = InputError(problem, "Check its permissions.")

    for here, subfolders, names in os.walk(folder, onerror=note_locked):
        parent = Path(here)
        try:
            if parent != folder or not results:
                earlier |= Manifest(parent).results()
        except OutputError as error:
            if parent == folder:
                raise
            locked[parent] = InputError(error.problem, "Check its permissions.")
            subfolders.clear()
            continue
        subfolders[:] = sorted(
            name for name in subfolders if recursive and not name.startswith(".") and not name.endswith(SUFFIX)
        )
        found = sorted(parent / name for name in names if supported(name) and not name.startswith("."))
        stems = {path.stem for path in found}
        for path in found:
            if not path.stem.endswith(SUFFIX) and naming.origin(path) not in stems and path not in earlier:
                yield path


def _refuse_to_replace_inputs(jobs: Sequence[Job], *, named: bool) -> None:
    """By the file itself, not its name: links and case are resolved."""
    inputs = {key: job.source for job in jobs if (key := _inode(job.source)) is not None}
    for job in jobs:
        key = _inode(job.target)
        if key in inputs:
            hint = " Add --force to overwrite it." if named else ""
            raise OutputError(
                f"The result {job.target} would overwrite the input {inputs[key]}.",
                f"Choose another -o or --suffix.{hint}",
            )


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _refuse_collisions(jobs: Sequence[Job]) -> None:
    taken: dict[str, Job] = {}
    folds = {folder: folds_case(folder) for folder in {job.target.parent for job in jobs}}
    for job in jobs:
        name = _absolute(job.target)
        first = taken.setdefault(name.casefold() if folds[job.target.parent] else name, job)
        if first is not job:
            raise OutputError(
                f"Both {first.source} and {job.source} would become {job.target}.",
                "Give them output folders of their own, or leave --format out.",
            )


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 - must not follow links as resolve() does


def folds_case(folder: Path) -> bool:
    """Whether names that differ only in case are one file there; tested in the nearest folder that exists."""
    here = folder.absolute()
    while here != here.parent and (not here.exists() or here.name.swapcase() == here.name):
        here = here.parent
    swapped = here.parent / here.name.swapcase()
    return here != here.parent and swapped.exists() and swapped.samefile(here)
