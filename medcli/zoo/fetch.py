"""Files from the Hugging Face Hub, pinned to a commit and a checksum.

The cache is asked first, and what lies there whole needs no network. The Hub's client counts bytes and no more, so the
checksum is taken here before a file is first used; a note of what the file looked like then spares doing it at every
start. The environment (HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE ...) is honoured as the client reads it.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path

from medcli.errors import ModelError
from medcli.zoo import words
from medcli.zoo.catalog import ignore
from medcli.zoo.checksum import sha256_of

if TYPE_CHECKING:
    from huggingface_hub import HfFileMetadata

PROBE_SECONDS = 5.0  # for the Hub to answer at all; the client's own patience is minutes
PAUSES = (1.0, 3.0)  # seconds before the second and the third try of a transfer that broke off
IDLE_SECONDS = 60.0  # what has not been written to for so long, and holds no lock, is of a dead transfer
PASSING = (408, 425, 429, 500, 502, 503, 504)  # statuses that another try may not meet again
NO_ROOM = ("ENOSPC", "EDQUOT", "EFBIG")
NO_RIGHTS = ("EACCES", "EPERM", "EROFS", "ENOTDIR")


@dataclass(frozen=True)
class HubFile:
    """One file of one commit on the Hub.

    repo: owner/name; file: path in the repository; revision: the commit, 40 hexadecimal digits; bytes: size, None where
    it is not stated; sha256: 64 hexadecimal digits; kind: of repository, "model", "space" or "dataset".
    Raises ModelError where one of them cannot be that.
    """

    repo: str
    file: str
    revision: str
    bytes: int | None
    sha256: str
    kind: str = "model"

    def __post_init__(self) -> None:
        rules = {
            "repo": r"[\w-][\w.-]*/[\w-][\w.-]*",
            "file": r"(?!(.*/)?\.{0,2}(/|$))[^\\]+",  # no empty part, no "." and no ".."
            "revision": r"[0-9a-f]{40}",
            "sha256": r"[0-9a-f]{64}",
            "kind": "model|space|dataset",
        }
        for part, rule in rules.items():
            value = getattr(self, part)
            if not re.fullmatch(rule, value, re.ASCII):
                hint = "It takes owner/name, a path, 40 digits of a commit and 64 of a checksum, both of 0-9 and a-f."
                raise ModelError(f"'{value}' cannot be the {part} of a file on the Hub.", hint)


def is_there(file: HubFile) -> bool:
    """Whether anything lies in the file's place in the Hub's cache, right or wrong."""
    return _identity(_place(file)) is not None


def cached(file: HubFile) -> Path | None:
    """The file in the Hub's cache if it is there, whole and verified; None otherwise. Needs no network."""
    path = _place(file)
    return path if _is_sound(path, file) else None


def fetch(file: HubFile, *, name: str, say: Callable[[str], None] = ignore) -> Path:
    """The file in the Hub's cache, verified; the network is asked only where the cache does not hold it.

    name: of the model, for people. say: is told what is fetched, how large it is and where to, and what went wrong on
    the way. A transfer that breaks off is tried again; a file that arrives corrupt is removed and fetched once more.
    Raises ModelError where the file cannot be had.
    """
    path = cached(file)
    if path is not None:
        return path
    try:
        path = _transfer(file, name, say) or _transfer(file, name, say, again=True)
    except failures() as error:
        raise (_answered(error, file) or _broken(error, name)) from error
    if path is None:
        problem = f"'{name}' arrived corrupt twice and was removed: {file.file} of {file.repo} has another checksum."
        raise ModelError(problem, "Something on the way may change files, such as a proxy: try another network.")
    return path


def remove(file: HubFile) -> int:
    """Takes the file out of the Hub's cache, and its bytes unless another snapshot uses them; returns the bytes freed.

    Raises ModelError where the cache cannot be written.
    """
    place, chain, freed = _place(file), _chain(_place(file)), 0
    try:
        for path in chain:
            if _is_linked(path):
                break
            freed += _unlink(path)
    except OSError as error:
        raise ModelError(f"{place} cannot be removed: {error.strerror}.") from error
    for folder in place.parents[: 1 + file.file.count("/")]:
        with suppress(OSError):  # other files of this snapshot lie there
            folder.rmdir()
    return freed + sum(_sweep(file, etag) for etag in {file.sha256, *(path.name for path in chain[1:])})


# The cache. <cache>/<kind>s--<owner>--<name>/snapshots/<revision>/<file> is a link to blobs/<etag> of the same
# repository, which may be a link too, into a store that all repositories share.


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(os.path.normpath(Path(constants.HF_HUB_CACHE).absolute()))


def _repository(file: HubFile) -> Path:
    return _cache() / "--".join([f"{file.kind}s", *file.repo.split("/")])


def _place(file: HubFile) -> Path:
    return _repository(file) / "snapshots" / file.revision / file.file


def _page(file: HubFile) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(file.kind, '')}{file.repo}"


def _target(link: Path) -> Path:
    return Path(os.path.normpath(link.parent / link.readlink()))


def _chain(path: Path) -> list[Path]:
    """A path, what it links to, and so on to the bytes, as far as that lies in the cache; empty if there is nothing."""
    steps: list[Path] = []
    while _cache() in path.parents and path not in steps and (path.is_symlink() or path.exists()):
        steps.append(path)
        path = _target(path) if path.is_symlink() else path
    return steps


def _is_linked(path: Path) -> bool:
    """Whether a link in the cache points here: from a snapshot to a blob, or from a blob to the shared store."""
    links = [*path.parent.parent.glob("snapshots/*/**/*"), *_cache().glob("*--*/blobs/*")]
    return any(link.is_symlink() and _target(link) == path for link in links)


def _unlink(path: Path) -> int:
    size = 0 if path.is_symlink() else path.stat().st_size
    path.unlink()
    return size


def _discard(file: HubFile) -> None:
    """Removes what lies in the file's place and is not the file, down to bytes that are of no use to anyone."""
    place = _place(file)
    before = _identity(place)
    if before is None or _is_sound(place, file):
        return
    if _identity(place) == before:  # otherwise another process has put it right in the meantime
        for path in _chain(place):
            path.unlink(missing_ok=True)


def _sweep(file: HubFile, etag: str) -> int:
    """Removes what killed transfers of these bytes have left; returns the bytes freed. Living ones hold a lock."""
    from filelock import FileLock, Timeout

    lock = _cache() / ".locks" / _repository(file).name / f"{etag}.lock"
    with suppress(OSError, Timeout, NotImplementedError):  # another process is at it, or there are no locks here
        leftovers = list((_repository(file) / "blobs").glob(f"{etag}.*.incomplete"))
        if leftovers:
            lock.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(lock, timeout=0):
                dead = [path for path in leftovers if time.time() - path.stat().st_mtime > IDLE_SECONDS]
                return sum(_unlink(path) for path in dead)
    return 0


# The notebook: path -> inode, size, times of change, and the checksum that the file had then.


def _is_sound(path: Path, file: HubFile) -> bool:
    identity = _identity(path)
    if identity is None or file.bytes not in (None, identity[1]):
        return False
    key = str(path.resolve())
    note: list[int | str] = [*identity, file.sha256]
    if _notes().get(key) == note:
        return True
    with suppress(OSError):
        if sha256_of(path) == file.sha256:
            _write_note(key, note)
            return True
    return False


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """What changes when a file does: inode, bytes, and when (ns) its content and its inode did."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _notebook() -> Path:
    return user_cache_path("medcli") / "verified.json"


def _notes() -> Mapping[str, Any]:
    try:
        notes = json.loads(_notebook().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _write_note(key: str, note: list[int | str]) -> None:
    """A note that cannot be written, or that another process overwrites, costs reading the file again."""
    # os.path: what cannot be asked for, such as a folder of somebody else, counts as gone and raises nothing
    notes = {path: value for path, value in _notes().items() if os.path.exists(path)} | {key: note}  # noqa: PTH110
    partial = _notebook().with_name(f".verified.{os.getpid()}.tmp")
    with suppress(OSError):
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(notes), encoding="utf-8")
        partial.replace(_notebook())


def _transfer(file: HubFile, name: str, say: Callable[[str], None], *, again: bool = False) -> Path | None:
    """One copy from the Hub, tried again where it breaks off; None for one with a wrong checksum, which is removed."""
    from huggingface_hub import constants

    announce, xet = say, not constants.HF_HUB_DISABLE_XET and not again
    for pause in (*PAUSES, None):
        facts: HfFileMetadata | None = None
        try:
            facts = _prepare(file, name, announce, again=again)
            announce = ignore
            _discard(file)
            _download(file, xet=xet)
            break
        except failures() as error:
            if pause is None or not _may_pass(error):
                raise
            how = WITHOUT_XET if xet and facts and facts.xet_file_data else ""
            say(f"'{name}' could not be fetched ({_cause(error)}). Trying again{how}.")
            xet = False
            time.sleep(pause)
    path = cached(file)
    if path is None:
        _discard(file)
    return path


def _prepare(file: HubFile, name: str, announce: Callable[[str], None], *, again: bool) -> HfFileMetadata:
    """Asks the Hub about the file, and the disk for room, before any of it is fetched."""
    facts = _probe(file, name)
    _sweep(file, facts.etag or file.sha256)
    size = facts.size or file.bytes
    free = shutil.disk_usage(next(folder for folder in (_cache(), *_cache().parents) if folder.exists())).free
    if size and size > free:
        raise ModelError(f"'{name}' needs {words.size(size)} in {_cache()}, where {words.size(free)} are free.", ROOM)
    what = f"{words.size(size) if size else 'size not stated'} from {_page(file)} into {_cache()}"
    announce(f"Fetching '{name}': {'again, since it arrived corrupt' if again else what}")
    return facts


def _probe(file: HubFile, name: str) -> HfFileMetadata:
    """What the Hub says of the file, after one request and no retries."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"'{name}' is not in {_cache()}, and HF_HUB_OFFLINE forbids fetching it.", ELSEWHERE)
    if not re.match(r"https?://[\w.\-\[:]+", constants.ENDPOINT):
        raise ModelError(f"HF_ENDPOINT is '{constants.ENDPOINT}', which is no address.", "It begins with https://.")
    patience = constants.HF_HUB_ETAG_TIMEOUT
    timeout = PROBE_SECONDS if patience == constants.DEFAULT_ETAG_TIMEOUT else patience
    url = hf_hub_url(file.repo, file.file, repo_type=file.kind, revision=file.revision)
    try:
        facts = get_hf_file_metadata(url, timeout=timeout)
    except HfHubHTTPError:
        raise
    except failures() as error:
        if _errno(error) in NO_RIGHTS:
            raise  # it is the cache's folder, not the Hub
        problem = f"'{name}' is not in the cache, and {constants.ENDPOINT} cannot be reached ({_cause(error)})."
        raise ModelError(problem, UNREACHABLE) from error
    if facts.commit_hash != file.revision or facts.etag is None:
        raise ModelError(f"{constants.ENDPOINT} does not answer as a Hub does, so '{name}' is not fetched.", NO_HUB)
    return facts


def _download(file: HubFile, *, xet: bool) -> None:
    """Into the cache. xet: whether the client may use its storage protocol of that name, which never falls back."""
    from huggingface_hub import constants, hf_hub_download

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or not xet
    try:
        hf_hub_download(file.repo, file.file, repo_type=file.kind, revision=file.revision)
    finally:
        constants.HF_HUB_DISABLE_XET = before


# Letters

WITHOUT_XET = " without Xet; HF_HUB_DISABLE_XET=1 does that at once"
ROOM = "Make room, or name another folder in HF_HOME."
ELSEWHERE = "Where there is a network, 'med models bundle' packs models to be carried here."
UNREACHABLE = f"Check the network, the proxy, and HF_ENDPOINT if it is set. {ELSEWHERE}"
NO_HUB = "A login page of the network may stand in between: open it in a browser. Otherwise check HF_ENDPOINT."
GONE = "What the catalogue names may have been withdrawn: look for a newer medcli, or report it."
TOKEN = "If it is private, set HF_TOKEN to a token that may read it."
STATUSES = {401: "Check HF_TOKEN; public models need none.", 403: "Check HF_TOKEN, and the proxy.", 404: NO_HUB}


def failures() -> tuple[type[Exception], ...]:
    """All that the Hub's client raises; the family of its transport errors varies with its version."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return OSError, HfHubHTTPError.__bases__[0], HFValidationError, RuntimeError  # the last of them is Xet's


def status_of(error: BaseException) -> int | None:
    """The status of the Hub's answer; None where none came."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def _errno(error: Exception) -> str:
    return errno.errorcode.get(getattr(error, "errno", None) or 0, "")


def _may_pass(error: Exception) -> bool:
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    status = status_of(error)
    if status is not None:
        return status in PASSING
    return not isinstance(error, (EntryNotFoundError, HFValidationError)) and _errno(error) not in NO_ROOM + NO_RIGHTS


def _cause(error: Exception) -> str:
    status = status_of(error)
    text = str(error).strip().partition("\n")[0]
    return f"status {status}" if status is not None else text or type(error).__name__


def _answered(error: Exception, file: HubFile) -> ModelError | None:
    """The letter for what the Hub says is not to be had."""
    from huggingface_hub import constants, errors

    page, endpoint = _page(file), constants.ENDPOINT
    agree = f"Accept the terms at {page}, then set HF_TOKEN to a token of that account ({endpoint}/settings/tokens)."
    letters: Mapping[type[Exception], tuple[str, str]] = {
        errors.GatedRepoError: (f"{file.repo} is gated: its authors want terms to be accepted first.", agree),
        errors.RepositoryNotFoundError: (f"There is no repository {page}, or it is private.", TOKEN),
        errors.RevisionNotFoundError: (f"{page} has no revision {file.revision}.", GONE),
        errors.LocalEntryNotFoundError: (f"{endpoint} can no longer be reached.", UNREACHABLE),
        errors.EntryNotFoundError: (f"{page} has no file {file.file} at {file.revision[:12]}.", GONE),
        errors.HFValidationError: (f"The Hub's client refuses {file.repo}: {_cause(error)}", GONE),
    }
    return next((ModelError(*letter) for kind, letter in letters.items() if isinstance(error, kind)), None)


def _broken(error: Exception, name: str) -> ModelError:
    """The letter for a transfer that the network, the Hub or the disk has ended."""
    status, number = status_of(error), _errno(error)
    if number in NO_ROOM:
        return ModelError(f"There is no room for '{name}' in {_cache()}.", ROOM)
    if number in NO_RIGHTS:
        return ModelError(f"'{name}' cannot be put into {_cache()} ({_cause(error)}).", "Name another one in HF_HOME.")
    times = f" in {len(PAUSES) + 1} tries" if _may_pass(error) else ""
    later = "Try again later. HF_HUB_DISABLE_XET=1 keeps to plain HTTP, which passes more networks."
    return ModelError(f"'{name}' could not be fetched{times} ({_cause(error)}).", STATUSES.get(status or 0, later))
