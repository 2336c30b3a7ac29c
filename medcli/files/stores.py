"""Files in object stores (s3://, gs://, az://) and on the web (http://, https://), through fsspec.

Credentials come from the environment, as each store's own tools read them: never from an address, so that no message
and no manifest can hold them. An object appears complete or not at all: it is written by a single put, or by parts that
are joined in the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from medcli.errors import InputError, MedcliError, OutputError

EXTRAS = {"s3": "s3", "gs": "gs", "az": "az", "http": "http", "https": "http"}
TAGS = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "updated", "last_modified")
METADATA = {"s3": "Metadata", "gs": "metadata", "az": "metadata"}  # how each driver calls the metadata of users
MARK = "medcli"  # their key
PAGE = 1000


def is_url(text: str) -> bool:
    """Whether this is an address in a store rather than a path."""
    return "://" in text and text.partition("://")[0] in EXTRAS


class StorePath(type(Path())):  # type: ignore[misc]
    """An address such as `s3://bucket/folder/name.png`, with the operations of a path that touch no file.

    tag: what tells this version of the object from others, empty where that is not known.
    """

    tag = ""

    @classmethod
    def of(cls, url: str, tag: str = "") -> StorePath:
        """Raises InputError for an address with a password or a query, which may be a signature."""
        protocol, _, rest = url.partition("://")
        if "?" in rest or "@" in rest.partition("/")[0]:
            hint = "Credentials come from the environment, as the tools of the store read them."
            raise InputError(f"The {protocol}:// address contains a query or a password, which is not supported.", hint)
        made = cls(url)
        made.tag = tag
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, (str(self), self.tag)

    def __str__(self) -> str:
        """With the two slashes that a path folds into one; a folder below an address is a relative path again."""
        first, *rest = self.parts or (".",)
        return f"{first}//{'/'.join(rest)}" if first.endswith(":") else "/".join([first, *rest])

    def __fspath__(self) -> str:
        return str(self)

    def stat(self, *, follow_symlinks: bool = True) -> Any:
        """Nothing on this machine."""
        raise FileNotFoundError(2, "not a local file", str(self))

    @property
    def protocol(self) -> str:
        return str(self.parts[0]).rstrip(":")


@cache
def file_system(protocol: str) -> Any:
    """Raises MedcliError where its driver is not installed."""
    try:
        import fsspec

        return fsspec.filesystem(protocol, skip_instance_cache=True, use_listings_cache=False)
    except ImportError as error:
        hint = f"pip install 'medcli[{EXTRAS.get(protocol, protocol)}]'"
        raise MedcliError(f"{protocol}:// needs a driver that is not installed.", hint) from error


def read_object(path: StorePath) -> tuple[bytes, str]:
    """(content, tag). Raises InputError."""
    with _translated(path, InputError):
        store = file_system(path.protocol)
        tag = tag_of(store.info(str(path)))
        return store.cat_file(str(path)), tag


def write_object(path: StorePath, content: bytes, mark: str = "") -> None:
    """mark: kept in its metadata, where the store has any. Raises OutputError."""
    if path.protocol not in METADATA:
        raise OutputError(f"Nothing can be written to {path}.", "Name a folder or a bucket with -o.")
    with _translated(path, OutputError):
        extra = {METADATA[path.protocol]: {MARK: mark}} if mark else {}
        file_system(path.protocol).pipe_file(str(path), content, **extra)


def mark_of(path: StorePath) -> str | None:
    """The mark of an object that `write_object` made; empty for one of another program, None where there is none.

    Raises OutputError.
    """
    with _translated(path, OutputError):
        store = file_system(path.protocol)
        try:
            info = store.info(str(path))
        except FileNotFoundError:
            return None
        if info["type"] == "directory":
            return None
        found: Mapping[str, Any] = store.metadata(str(path)) if path.protocol == "s3" else info.get("metadata") or {}
        return str(found.get(MARK, ""))


def tagged(path: StorePath) -> StorePath:
    """With the tag of the version that is there now; without one where there is none. Raises InputError."""
    with _translated(path, InputError):
        try:
            return StorePath.of(str(path), tag_of(file_system(path.protocol).info(str(path))))
        except FileNotFoundError:
            return path


def is_prefix(path: StorePath) -> bool:
    """Whether there are objects below this address. Raises InputError."""
    with _translated(path, InputError):
        return bool(file_system(path.protocol).isdir(str(path)))


def objects_below(folder: StorePath, *, recursive: bool = False) -> Iterator[StorePath]:
    """The objects with their tags, page by page, so that a million need no memory. Raises InputError."""
    with _translated(folder, InputError):
        store = file_system(folder.protocol)
        if folder.protocol == "s3":
            yield from _listed_s3(store, folder, recursive)
            return
        for name, info in sorted(store.find(str(folder), maxdepth=None if recursive else 1, detail=True).items()):
            yield StorePath.of(name if "://" in name else f"{folder.protocol}://{name}", tag_of(info))


def _listed_s3(store: Any, folder: StorePath, recursive: bool) -> Iterator[StorePath]:
    bucket, *rest = folder.parts[1:]
    where = {"Bucket": bucket, "Prefix": "".join(f"{part}/" for part in rest), "MaxKeys": PAGE}
    where |= {} if recursive else {"Delimiter": "/"}
    more: dict[str, str] = {}
    while True:
        page = store.call_s3("list_objects_v2", **where, **more)
        for each in page.get("Contents", []):
            yield StorePath.of(f"s3://{bucket}/{each['Key']}", tag_of(each))
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def tag_of(info: Mapping[str, Any]) -> str:
    """What tells versions of an object apart: its checksum, else its time; and its size."""
    size = info.get("size", info.get("Size", ""))
    return f"{next((str(info[key]) for key in TAGS if info.get(key)), '')} {size}"


@contextmanager
def _translated(path: StorePath, kind: type[MedcliError]) -> Iterator[None]:
    """What a driver raises, of its own kind or of its HTTP client's, as an error that names the address."""
    try:
        yield
    except MedcliError:
        raise
    except FileNotFoundError:
        raise kind(f"There is no file {path}.", "Check the spelling, and that the bucket is there.") from None
    except Exception as error:  # of botocore, aiohttp, google, azure: no common base
        if isinstance(error, (TypeError, AttributeError, KeyError, MemoryError)):
            raise
        word = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        hint = "Check the credentials and the address of the store in the environment, and the connection."
        raise kind(f"{path}: {word}", hint) from None
