"""The manifest of an output folder: which result was made of which input, by which model, with which settings.

One file per output folder, one JSON object per line, only ever appended to. A line is written before its result gets
its name, so a result that exists is always known, and a run killed at any moment can go on. Torn lines are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from medcli.errors import OutputError
from medcli.files import jsonl
from medcli.files.checksum import blake2b_of

FILE_NAME = ".medcli.jsonl"
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
        """Reads the file once. Raises OSError."""
        status = path.stat()
        return cls(status.st_size, status.st_mtime_ns, blake2b_of(path), status.st_ctime_ns)

    def matches(self, path: Path, renamed: bool = False) -> bool:
        """Whether the file at `path` is this one; False where there is none.

        renamed: it may have got its name after its identity was taken, which counts as a change at that moment.
        """
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
    """The manifest of one output folder. Threads may record; nothing is created before the first record."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / FILE_NAME
        self._lock = Lock()
        self._entries: dict[str, list[ManifestEntry]] = {}
        try:
            content = self.path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            content = b""
        except OSError as error:
            raise OutputError(f"{self.path} cannot be read: {error.strerror}.") from error
        for entry in filter(None, map(ManifestEntry.parse, jsonl.parse(content))):
            self._entries.setdefault(entry.output, []).append(entry)

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
        """Appends an entry; call it before `target` gets its name."""
        entry = ManifestEntry(self._key(target), settings, source, result)
        with self._lock:
            jsonl.append(self.path, asdict(entry))
            self._entries.setdefault(entry.output, []).append(entry)

    def _past(self, target: Path) -> list[ManifestEntry]:
        return self._entries.get(self._key(target), [])

    def _key(self, target: Path) -> str:
        return target.relative_to(self.root).as_posix()
