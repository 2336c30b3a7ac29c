"""Jobs whose images lie in an object store, as its listing brings them: a million need no memory for their names."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from medcli.batch.denoise.plan import STREAM, SUFFIX, Job, OutputNaming, make_plan
from medcli.errors import InputError, OutputError
from medcli.files.stores import METADATA, StorePath, is_prefix, objects_below, tagged
from medcli.images.formats import supported


def in_stores(inputs: Sequence[Path], output: Path | None) -> bool:
    """Whether any of them lies in a store or on the web."""
    return any(isinstance(path, StorePath) for path in (*inputs, output))


def stored_jobs(inputs: Sequence[Path], naming: OutputNaming, *, recursive: bool, force: bool) -> Iterator[Job]:
    """The jobs for these objects, folders of objects, files and folders; results in a store or on this machine.

    An image whose result would have the name of another one's becomes a job with an `error`. Raises InputError for
    folders without images, OutputError where results have nowhere to go or would lie among the images.
    """
    if isinstance(naming.output, StorePath) and naming.output.protocol not in METADATA:
        raise OutputError(f"Nothing can be written to {naming.output}.", "Name a folder or a bucket with -o.")
    taken: set[int] = set()
    for given in inputs:
        for job in _jobs(given, naming, recursive, force, single=len(inputs) == 1):
            key = hash(job.target)
            if key in taken and job.error is None:
                problem = f"The result of {job.source} would have the name of another one: {job.target}."
                job = replace(job, error=OutputError(problem, "Leave --format out, or choose another --suffix."))
            taken.add(key)
            yield job


def _jobs(given: Path, naming: OutputNaming, recursive: bool, force: bool, *, single: bool) -> Iterator[Job]:
    if not isinstance(given, StorePath):
        yield from make_plan([given], naming, recursive=recursive, force=force)
    elif supported(given) and not is_folder_name(given):
        yield _one(given, naming, single)
    else:
        yield from _of_folder(given, naming, recursive)


def is_folder_name(path: StorePath) -> bool:
    """Whether an address that ends like an image is a folder all the same."""
    return path.protocol in METADATA and is_prefix(path)


def _one(source: StorePath, naming: OutputNaming, single: bool) -> Job:
    output = naming.output
    if output is None:
        if source.protocol not in METADATA:
            raise OutputError(f"There is no place for the result of {source}.", "Name a file or a folder with -o.")
        return Job(tagged(source), source.with_name(naming.name(source, SUFFIX)))
    if output == STREAM or (single and supported(output) and not naming.folder):
        return Job(tagged(source), output)
    return Job(tagged(source), output / naming.name(source), output)


def _of_folder(folder: StorePath, naming: OutputNaming, recursive: bool) -> Iterator[Job]:
    if folder.protocol not in METADATA:
        raise InputError(f"{folder} does not end like the name of an image.", "Web servers list no folders.")
    root = naming.output or folder.with_name(folder.name + SUFFIX)
    if isinstance(root, StorePath) and (root == folder or folder.is_relative_to(root)):
        raise OutputError(f"The results in {root} would lie among the images of {folder}.", "Choose another -o.")
    found = False
    for source in objects_below(folder, recursive=recursive):
        inside = source.relative_to(folder)
        hidden = any(part.startswith(".") for part in inside.parts)
        if hidden or not supported(source) or source.stem.endswith(SUFFIX) or source.is_relative_to(root):
            continue
        found = True
        yield Job(source, root / inside.with_name(naming.name(source)), root)
    if not found:
        raise InputError(
            f"The folder {folder} holds no image to denoise.",
            "Check the bucket and the spelling." if recursive else "Add --recursive to look into its subfolders.",
        )
