"""The manifest of an output folder: which result was made of which input, by which model, with which settings.

One file per output folder, one JSON object per line, only ever appended to. A line is written before its result gets
its name, so a result that exists is always known, and a run killed at any moment can go on. Torn lines are ignored.

Where several processes, perhaps of several machines, write into one folder, each has a part of the manifest for itself
and locks it as long as it lives; the next run merges the parts that nobody has locked. Without locks they stay, and
are read all the same.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

from medcli.errors import OutputError
from medcli.files import jsonl
from medcli.files.atomic import lock
from medcli.files.checksum import blake2b, blake2b_of
from medcli.files.stores import StorePath

FILE_NAME = ".medcli.jsonl"
PART = ".medcli-{}.jsonl"
RENAMING_NS = 2 * 10**9  # from the checksum of a result to its renaming


@dataclass(frozen=True)
class Identity:
    """Identity of a file: its content. Size (bytes) and times avoid reading it again.

    The modification time can be set, and is coarse on some file systems; the change time is the kernel's own. It is
    missing (0) in manifests of earlier versions, and is then not compared.
    """

    size: int
    mtime_ns: int
    blake2b: str
    ctime_ns: int = 0

    @classmethod
    def of(cls, path: Path) -> Identity:
        """Reads the file once, but one in a store: its tag stands for its content. Raises OSError."""
        if isinstance(path, StorePath):
            return cls(0, 0, blake2b(path.tag.encode()))
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, blake2b_of(path), status.st_ctime_ns)

    def matches(self, path: Path, renamed: bool = False) -> bool:
        """Whether the file at `path` is this one; False where there is none.

        renamed: it may have got its name after its identity was taken, which counts as a change at that moment.
        """
        if isinstance(path, StorePath):
            return self == Identity.of(path)
        try:
            status = path.stat()
            if status.st_size != self.size:
                return False
            later = status.st_ctime_ns - self.ctime_ns if self.ctime_ns else 0
            untouched = status.st_mtime_ns == self.mtime_ns and 0 <= later <= (RENAMING_NS if renamed else 0)
            return untouched or blake2b_of(path) == self.blake2b
        except OSError:
            return False


@dataclass(frozen=True)
class ManifestEntry:
    """One result. output: path relative to the folder; settings: digest of the model and all that shapes the pixels."""

    output: str
    settings: str
    source: Identity
    result: Identity

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> ManifestEntry | None:
        """The entry of a line; None for one of another program."""
        try:
            source, result = Identity(**values["source"]), Identity(**values["result"])
            return cls(values["output"], values["settings"], source, result)
        except (KeyError, TypeError):
            return None


class Manifest:
    """The manifest of one output folder. Threads may record; nothing is created before the first record.

    shared: whether other processes record here meanwhile, so that this one needs a part of its own.
    Whatever looks something up raises OutputError where a file of the manifest cannot be read.
    """

    def __init__(self, root: Path, *, shared: bool = False) -> None:
        self.root = root
        self.path = root / FILE_NAME
        self._lock = Lock()
        self._shared = shared
        self._part: BinaryIO | None = None

    @cached_property
    def _entries(self) -> dict[str, list[ManifestEntry]]:
        """Of each output, the last one last."""
        found: dict[str, list[ManifestEntry]] = {}
        newest = [entry for path in _parts(self.root) for entry in _entries_of(path)]  # first: they may be merged now
        for entry in (*_entries_of(self.path), *newest):
            found.setdefault(entry.output, []).append(entry)
        for entries in found.values() if newest else ():
            entries.sort(key=_made_at)
        return found

    def results(self) -> set[Path]:
        """All files that earlier runs made in this folder, whether they still exist or not."""
        return {self.root / output for output in self._entries}

    def up_to_date(self, target: Path, source: Path, settings: str) -> bool:
        """Whether `target` exists as it was last made, of this input and with these settings."""
        past = self._past(target)
        if not past or past[-1].settings != settings:
            return False
        return past[-1].result.matches(target, renamed=True) and past[-1].source.matches(source)

    def made(self, target: Path) -> bool:
        """Whether the file at `target` is one that a run made, and unchanged since."""
        return any(entry.result.matches(target, renamed=True) for entry in reversed(self._past(target)))

    def record(self, target: Path, settings: str, source: Identity, result: Identity) -> None:
        """Appends an entry; call it before `target` gets its name. Raises OSError."""
        entry = ManifestEntry(self._key(target), settings, source, result)
        with self._lock:
            if self._shared:
                part = self._own_part()
                part.write(jsonl.line(asdict(entry)))
                part.flush()
            else:
                jsonl.append(self.path, asdict(entry))

    def close(self) -> None:
        """Gives the part free for merging."""
        with self._lock:
            if self._part is not None:
                self._part.close()
                self._part = None

    def merge(self) -> None:
        """Moves the entries of all parts that nobody has locked into the manifest, the last one of each result.

        Where the file system has no locks, or the folder may not be written to, parts stay as they are.
        """
        if not (parts := _parts(self.root)):
            return
        with suppress(OSError), ExitStack() as stack:
            lock(stack.enter_context(self.path.open("ab")), wait=True)
            free = [part for part in parts if _locked(part, stack)]
            entries = sorted((entry for part in free for entry in _entries_of(part)), key=_made_at)
            jsonl.append(self.path, *map(asdict, {entry.output: entry for entry in entries}.values()))
            for part in free:
                part.unlink()

    def _own_part(self) -> BinaryIO:
        if self._part is None:
            self._part = (self.root / PART.format(secrets.token_hex(6))).open("xb")
            with suppress(OSError):
                lock(self._part)
        return self._part

    def _past(self, target: Path) -> list[ManifestEntry]:
        return self._entries.get(self._key(target), [])

    def _key(self, target: Path) -> str:
        return target.relative_to(self.root).as_posix()


def _made_at(entry: ManifestEntry) -> int:
    return entry.result.ctime_ns


def _parts(root: Path) -> list[Path]:
    return sorted(root.glob(PART.format("*")))


def _locked(part: Path, stack: ExitStack) -> bool:
    """Whether the part could be locked, until the stack ends: its process is gone."""
    try:
        lock(stack.enter_context(part.open("r+b")))
    except OSError:
        return False
    return True


def _entries_of(path: Path) -> Iterable[ManifestEntry]:
    try:
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except OSError as error:
        raise OutputError(f"{path} cannot be read: {error.strerror}.") from error
    return filter(None, map(ManifestEntry.parse, jsonl.parse(content)))
