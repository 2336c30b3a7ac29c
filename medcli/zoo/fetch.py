"""Files from the Hugging Face Hub, pinned to a commit and a checksum.

Transfers, resuming, locks and the cache are those of `huggingface_hub`, and so are the variables of the environment
(HF_HOME, HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE ...). Added here: the checksum before a file is first used, one short
request before a transfer, further tries without Xet storage, and error messages. A cached file needs no network.
"""

from __future__ import annotations

import errno
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta
from rich.filesize import decimal

from medcli.errors import ModelError
from medcli.files.checksum import sha256_of

PROBE_SECONDS = 5.0  # for the Hub's first answer; the client alone would wait for minutes
PAUSES = (1.0, 3.0)  # seconds before the second and the third try of a transfer that broke off
DEAD_SECONDS = 3600.0  # a partial file that has not grown for so long was left by a process that was killed
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # statuses that another try may not meet again
NO_ROOM = ("ENOSPC", "EDQUOT", "EFBIG")
NO_RIGHTS = ("EACCES", "EPERM", "EROFS", "ENOTDIR")
Say = Callable[[str], None]


@dataclass(frozen=True)
class HubFile:
    """One file of one commit on the Hub.

    repo: owner/name; file: path in the repository; revision: the commit, 40 hexadecimal digits; bytes: size, None where
    it is not stated; sha256: 64 hexadecimal digits; kind: of repository.
    """

    repo: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}\Z")]
    file: Annotated[str, Meta(pattern=r"^(?!(.*/)?\.{0,2}(/|\Z))[^\\]+\Z")]  # no empty part, no "." and no ".."
    revision: Annotated[str, Meta(pattern=r"^[0-9a-f]{40}\Z")]
    bytes: int | None
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    kind: Literal["model", "space", "dataset"] = "model"


def ignore(line: str) -> None:
    """Ignores progress messages."""


def is_there(file: HubFile) -> bool:
    """Whether the Hub's cache holds something under the file's name, intact or not."""
    return _pointer(file).exists()


def cached(file: HubFile) -> Path | None:
    """The file in the Hub's cache if it is there and has the right checksum; None otherwise. Needs no network."""
    path = _pointer(file)
    return path if _is_intact(path, file) else None


def fetch(file: HubFile, *, name: str, say: Say = ignore) -> Path:
    """The file in the Hub's cache, with the right checksum; the network is used only where the cache lacks it.

    name: of the model, for messages. say: called with the file, its size and target, and with what went wrong on
    the way. A transfer that breaks off is tried again; a file with a wrong checksum is fetched once more.
    Raises ModelError where the file cannot be had.
    """
    if (path := cached(file)) is not None:
        return path
    try:
        for again in (False, True):
            path = _transfer(file, name, say, again=again)
            if _is_intact(path, file):
                return path
    except failures() as error:
        raise _explained(error, file, name) from error
    remove(file)
    problem = f"'{name}' arrived corrupt twice and was removed: {file.file} of {file.repo} has another checksum."
    raise ModelError(problem, "Something on the way may change files, such as a proxy: try another network.")


def remove(file: HubFile) -> int:
    """Removes the file from the Hub's cache, its bytes only if no other snapshot uses them; returns the bytes freed.

    Raises ModelError where the cache cannot be written.
    """
    pointer, freed = _pointer(file), _remove_partial(file)
    try:
        if pointer.is_symlink() or pointer.exists():
            blob = pointer.resolve()
            link = pointer.parent / pointer.readlink() if pointer.is_symlink() else pointer
            pointer.unlink()
            users = _cache().glob("*--*/snapshots/*/**/*")
            if blob != pointer and any(user.is_symlink() and user.resolve() == blob for user in users):
                return freed
            freed += blob.stat().st_size if blob.exists() else 0
            for path in (link, blob):
                path.unlink(missing_ok=True)
    except OSError as error:
        raise ModelError(f"{pointer} cannot be removed: {error.strerror}.") from error
    for folder in pointer.parents[: 1 + file.file.count("/")]:
        with suppress(OSError):  # other files of this snapshot are there
            folder.rmdir()
    return freed


def _cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _repository(file: HubFile) -> Path:
    return _cache() / "--".join([f"{file.kind}s", *file.repo.split("/")])


def _pointer(file: HubFile) -> Path:
    """Where the client puts the file: a link to blobs/<etag>. Its own function for this would import an HTTP client."""
    return _repository(file) / "snapshots" / file.revision / file.file


def _remove_partial(file: HubFile) -> int:
    """Removes what killed transfers of the file have left, and returns the bytes freed."""
    freed = 0
    for path in (_repository(file) / "blobs").glob(f"{file.sha256}*.incomplete"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > DEAD_SECONDS:
                freed += path.stat().st_size
                path.unlink()
    return freed


def _is_intact(path: Path, file: HubFile) -> bool:
    """Whether the file has its checksum, which is noted, so that the file is read again only after a change."""
    try:
        seen = path.stat()
        if file.bytes not in (None, seen.st_size):
            return False
        now = f"{path.resolve()} {seen.st_ino} {seen.st_size} {seen.st_mtime_ns} {seen.st_ctime_ns}"
        note = _note(file)
        with suppress(OSError, UnicodeDecodeError):
            if note.read_text(encoding="utf-8") == now:
                return True
        if sha256_of(path) != file.sha256:
            return False
    except OSError:
        return False
    with suppress(OSError):  # without the note, the file is read again the next time
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(now, encoding="utf-8")
    return True


def _note(file: HubFile) -> Path:
    import platformdirs

    return platformdirs.user_cache_path("medcli") / "verified" / file.sha256


def _transfer(file: HubFile, name: str, say: Say, *, again: bool) -> Path:
    """One copy from the Hub, in place of a corrupt one if there is one; tried again where it breaks off."""
    from huggingface_hub import constants, hf_hub_download

    announce, xet = say, not constants.HF_HUB_DISABLE_XET and not again
    for pause in (*PAUSES, None):
        by_xet = False
        try:
            by_xet = _announce(file, name, announce, again=again) and xet
            announce = ignore
            with _xet(xet), _bar(say is not ignore):
                corrupt, repo = is_there(file) and cached(file) is None, file.repo
                return Path(
                    hf_hub_download(
                        repo, file.file, repo_type=file.kind, revision=file.revision, force_download=corrupt
                    )
                )
        except failures() as error:
            if pause is None or not _is_transient(error):
                raise
            how = " without Xet; HF_HUB_DISABLE_XET=1 does that at once" if by_xet else ""
            say(f"'{name}' could not be fetched ({_cause(error)}). Trying again{how}.")
            xet = False
            time.sleep(pause)
    raise AssertionError("the last try returns or raises")


def _announce(file: HubFile, name: str, say: Say, *, again: bool) -> bool:
    """Requests the file's metadata from the Hub and checks free disk space; returns whether the Hub offers Xet."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    cache = _cache()
    if constants.HF_HUB_OFFLINE:
        raise ModelError(f"'{name}' is not in {cache}, and HF_HUB_OFFLINE forbids fetching it.", ELSEWHERE)
    if not re.match(r"https?://[\w.\-\[:]+", constants.ENDPOINT):
        raise ModelError(f"HF_ENDPOINT is '{constants.ENDPOINT}', which is no address.", "It begins with https://.")
    usual = constants.HF_HUB_ETAG_TIMEOUT == constants.DEFAULT_ETAG_TIMEOUT
    url = hf_hub_url(file.repo, file.file, repo_type=file.kind, revision=file.revision)
    try:
        found = get_hf_file_metadata(url, timeout=PROBE_SECONDS if usual else constants.HF_HUB_ETAG_TIMEOUT)
    except HfHubHTTPError:
        raise
    except failures() as error:
        if _errno(error) in NO_RIGHTS:
            raise  # it is the cache's folder, not the Hub
        problem = f"'{name}' is not in the cache, and {constants.ENDPOINT} cannot be reached ({_cause(error)})."
        raise ModelError(problem, UNREACHABLE) from error
    if found.commit_hash != file.revision or found.etag is None:
        raise ModelError(f"{constants.ENDPOINT} does not answer as a Hub does, so '{name}' is not fetched.", NO_HUB)
    _remove_partial(file)
    size = found.size or file.bytes
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.absolute().parents) if folder.exists())).free
    if size and size > free:
        raise ModelError(f"'{name}' needs {decimal(size)} in {cache}, where {decimal(free)} are free.", ROOM)
    what = f"{decimal(size) if size else 'size not stated'} from {_page(file)} into {cache}"
    say(f"Fetching '{name}': {'again, since it arrived corrupt' if again else what}")
    return found.xet_file_data is not None


@contextmanager
def _bar(wanted: bool) -> Iterator[None]:
    """The client's progress bar (tqdm, on standard error) is shown on a terminal alone, where it is wanted."""
    from huggingface_hub import utils

    hides = not (wanted and sys.stderr is not None and sys.stderr.isatty()) and not utils.are_progress_bars_disabled()
    if hides:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if hides:
            utils.enable_progress_bars()


@contextmanager
def _xet(allowed: bool) -> Iterator[None]:
    """Whether the client may use Xet, its own storage protocol, from which it never falls back to HTTP by itself."""
    from huggingface_hub import constants

    before = constants.HF_HUB_DISABLE_XET
    constants.HF_HUB_DISABLE_XET = before or not allowed
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_XET = before


# Error messages

ROOM = "Make room, or name another folder in HF_HOME."
ELSEWHERE = "On a machine with a network, 'med models bundle' packs models to be carried here."
UNREACHABLE = f"Check the network, the proxy, and HF_ENDPOINT if it is set. {ELSEWHERE}"
NO_HUB = "The login page of a network may be in the way: open it in a browser. Otherwise check HF_ENDPOINT."
GONE = "The file may have been withdrawn: look for a newer medcli, or report it."
LATER = "Try again later. HF_HUB_DISABLE_XET=1 keeps to plain HTTP, which passes more networks."
STATUSES = {401: "Check HF_TOKEN; public models need none.", 403: "Check HF_TOKEN, and the proxy.", 404: NO_HUB}


def failures() -> tuple[type[Exception], ...]:
    """All that the Hub's client raises; the family of its transport errors varies with its version."""
    from huggingface_hub.errors import HfHubHTTPError

    return OSError, HfHubHTTPError.__bases__[0], ValueError, RuntimeError  # the last of them is Xet's


def status_of(error: BaseException) -> int | None:
    """The status of the Hub's answer; None where none came."""
    response = getattr(error, "response", None)
    return None if response is None else response.status_code


def _errno(error: Exception) -> str:
    return errno.errorcode.get(getattr(error, "errno", None) or 0, "")


def _is_transient(error: Exception) -> bool:
    from huggingface_hub.errors import EntryNotFoundError

    status = status_of(error)
    if status is not None:
        return status in TRANSIENT
    return not isinstance(error, EntryNotFoundError | ValueError) and _errno(error) not in NO_ROOM + NO_RIGHTS


def _cause(error: Exception) -> str:
    status = status_of(error)
    text = str(error).strip().partition("\n")[0]
    return f"status {status}" if status is not None else text or type(error).__name__


def _page(file: HubFile) -> str:
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{constants.REPO_TYPES_URL_PREFIXES.get(file.kind, '')}{file.repo}"


def _explained(error: Exception, file: HubFile, name: str) -> ModelError:
    """What the Hub, the network or the disk refuses, and what to do about it."""
    from huggingface_hub import constants, errors

    page, endpoint, number = _page(file), constants.ENDPOINT, _errno(error)
    agree = f"Accept the terms at {page}, then set HF_TOKEN to a token of that account ({endpoint}/settings/tokens)."
    token = "If it is private, set HF_TOKEN to a token that may read it."
    refusals: Mapping[type[Exception], tuple[str, str]] = {
        errors.GatedRepoError: (f"{file.repo} is gated: its authors want terms to be accepted first.", agree),
        errors.RepositoryNotFoundError: (f"There is no repository {page}, or it is private.", token),
        errors.RevisionNotFoundError: (f"{page} has no revision {file.revision}.", GONE),
        errors.LocalEntryNotFoundError: (f"{endpoint} can no longer be reached.", UNREACHABLE),
        errors.EntryNotFoundError: (f"{page} has no file {file.file} at {file.revision[:12]}.", GONE),
        errors.HFValidationError: (f"The Hub's client refuses {file.repo}: {_cause(error)}", GONE),
    }
    for kind, message in refusals.items():
        if isinstance(error, kind):
            return ModelError(*message)
    if number in NO_ROOM:
        return ModelError(f"There is no room for '{name}' in {_cache()}.", ROOM)
    if number in NO_RIGHTS:
        return ModelError(f"'{name}' cannot be put into {_cache()} ({_cause(error)}).", "Name another one in HF_HOME.")
    tries = f" in {len(PAUSES) + 1} tries" if _is_transient(error) else ""
    hint = STATUSES.get(status_of(error) or 0, LATER)
    return ModelError(f"'{name}' could not be fetched{tries} ({_cause(error)}).", hint)
