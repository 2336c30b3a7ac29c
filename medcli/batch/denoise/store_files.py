"""Results in an object store: each is a single put that carries a mark of what it was made of and how.

The mark alone decides whether an object is up to date, or may be replaced; objects without one are those of others. The
manifest beside the results saves asking for the marks: objects `.medcli/*.jsonl`, each with the results of a while.
"""

from __future__ import annotations

import io
import json
import secrets
import time
from collections.abc import Iterable
from pathlib import Path

from medcli.batch.denoise.files import ImageFiles
from medcli.batch.denoise.plan import Job
from medcli.batch.denoise.report import Outcome
from medcli.errors import OutputError
from medcli.files import jsonl
from medcli.files.checksum import blake2b
from medcli.files.stores import StorePath, mark_of, objects_below, read_object, write_object
from medcli.images import DecodedImage

FOLDER = ".medcli"
LINES, SECONDS = 1000, 30.0  # of one object of the manifest
DIGITS = 32  # of a mark, in hexadecimal


class StoreFiles(ImageFiles):
    """As `ImageFiles`, with results in a store; sources lie there or on this machine."""

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__(*arguments, **options)  # type: ignore[arg-type]
        self._known: dict[Path, dict[str, str]] = {}  # marks by output, of the manifest of each folder
        self._present: dict[Path, set[str]] = {}  # what lies in the folder
        self._new: dict[Path, list[bytes]] = {}
        self._flushed = time.monotonic()

    def existing_outcome(self, job: Job) -> Outcome | None:
        """See `ImageFiles`. Raises OutputError where the store does not answer."""
        if job.error is not None:
            return Outcome(job, "failed", error=job.error)
        assert isinstance(job.target, StorePath)
        if job.root is not None:
            name = job.target.relative_to(job.root).as_posix()
            if name not in self._listed(job.root):
                return None
            if self._recorded(job.root).get(name) == self._mark(job):
                return Outcome(job, "skipped")
        mark = mark_of(job.target)
        if mark is None or (mark and mark != self._mark(job)):
            return None
        if mark:
            return Outcome(job, "skipped")
        problem = f"{job.target} exists, and is no result of an earlier run."
        hint = "Add --force to overwrite it, or choose another -o."
        return Outcome(job, "failed", error=OutputError(problem, hint))

    def write(self, job: Job, image: DecodedImage) -> None:
        """Raises OutputError. The object appears complete or not at all."""
        assert isinstance(job.target, StorePath)
        buffer = io.BytesIO()
        self._encode(image, buffer, job)
        write_object(job.target, buffer.getvalue(), self._mark(job))

    def streams(self, job: Job, image: DecodedImage) -> bool:
        """A put takes the whole object."""
        return False

    def ended(self, outcome: Outcome) -> None:
        """Adds a result to the manifest, which is written from time to time."""
        job = outcome.job
        if outcome.status != "done" or job.root is None:
            return
        entry = {"output": job.target.relative_to(job.root).as_posix(), "mark": self._mark(job)}
        self._new.setdefault(job.root, []).append(jsonl.line(entry))
        if time.monotonic() - self._flushed > SECONDS or len(self._new[job.root]) >= LINES:
            self.close()

    def close(self) -> None:
        """Writes what is new into the manifests."""
        for root, lines in self._new.items():
            write_object(StorePath.of(f"{root}/{FOLDER}/{secrets.token_hex(6)}.jsonl"), b"".join(lines))
        self._new.clear()
        self._flushed = time.monotonic()

    def tidy(self, jobs: Iterable[Job]) -> None:
        """Nothing half written can be left in a store."""

    def _mark(self, job: Job) -> str:
        """Of the version of the source and all options that change the result."""
        return blake2b(json.dumps([self._digest(job), self._source_tag(job)]).encode(), DIGITS)

    def _source_tag(self, job: Job) -> str:
        if isinstance(job.source, StorePath):
            return job.source.tag
        status = job.source.stat()
        return f"{status.st_size} {status.st_mtime_ns}"

    def _listed(self, root: Path) -> set[str]:
        if root not in self._present:
            assert isinstance(root, StorePath)
            found = objects_below(root, recursive=True)
            self._present[root] = {each.relative_to(root).as_posix() for each in found}
        return self._present[root]

    def _recorded(self, root: Path) -> dict[str, str]:
        if root not in self._known:
            parts = [name for name in self._listed(root) if name.startswith(f"{FOLDER}/")]
            marks: dict[str, str] = {}
            for part in parts:
                for entry in jsonl.parse(read_object(StorePath.of(f"{root}/{part}"))[0]):
                    marks[str(entry.get("output"))] = str(entry.get("mark"))
            self._known[root] = marks
        return self._known[root]
