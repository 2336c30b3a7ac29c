"""A fake Hugging Face Hub on the loopback address, standard library only, for tests through HF_ENDPOINT.

    with FakeHub() as hub:
        repo = hub.add_repo("acme/tiny", {"model.safetensors": data, "README.md": b"..."}, lfs={"model.safetensors"})
        hub.fault("acme/tiny", "model.safetensors", drop=1000)
        environment["HF_ENDPOINT"] = hub.url

Downloads   HEAD, GET /{repo}/resolve/{revision}/{path}        a space is called "spaces/owner/name" here
            GET /api/models/{repo}[/revision/{revision}], GET /api/models/{repo}/tree/{revision}
            GET /api/models/{repo}/xet-read-token/{revision}   answers 500: shows whether the client went the Xet way
Uploads     POST /api/repos/create, /api/models/{repo}/preupload/{revision}, /{repo}.git/info/lfs/objects/batch,
            PUT /lfs/{sha256}, POST /api/models/{repo}/commit/{revision}, /api/validate-yaml; GET /api/whoami-v2

A file named in `lfs` is answered with a redirect that carries its digest and size, and its bytes come from a second
listener, as from the real one's CDN: another origin, to which no token may follow. It is called "localhost" while the
hub is "127.0.0.1", since some clients compare host names only. Every request is kept in `hub.log`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import struct
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

TOKEN = "hf_good"
LFS_ENDINGS = (".safetensors", ".onnx", ".pth")
LFS_BYTES = 10 * 2**20
PAGE = b"<!doctype html><title>Welcome to the hotel</title>Please accept our terms."


class Request(NamedTuple):
    """One line of the log. origin: "hub" or "cdn"; range: the Range header; authorized: whether a token came along."""

    origin: str
    method: str
    path: str
    status: int
    range: str | None
    authorized: bool


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer; those of a file are used up in the order in which they were set.

    drop, fin: the body ends after so many bytes with a reset (RST), or politely (FIN). corrupt: the byte at this place
    of the file is wrong. short: body and Content-Length lack so many bytes. status: this status, and no file. portal:
    200 and a web page, to HEAD and GET. ignore_range: the whole file, whatever part was requested. delay: seconds
    before the answer. omit: headers that HEAD leaves out. only: "HEAD" or "GET", for faults that fit both.
    """

    drop: int | None = None
    fin: int | None = None
    corrupt: int | None = None
    short: int = 0
    status: int = 0
    portal: bool = False
    ignore_range: bool = False
    delay: float = 0
    omit: tuple[str, ...] = ()
    only: str = ""

    def fits(self, method: str) -> bool:
        body = self.drop is not None or self.fin is not None or self.corrupt is not None
        bound = self.only or ("GET" if body or self.short or self.ignore_range else "HEAD" if self.omit else method)
        return bound == method


WHOLE = Fault()


def git_blob_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Repo:
    """A repository with its whole history: commit -> path -> bytes."""

    files: dict[str, bytes]
    lfs: set[str] = field(default_factory=set)
    xet: set[str] = field(default_factory=set)
    gated: bool = False
    private: bool = False
    token: str = TOKEN
    history: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self) -> str:
        """Freezes the files as they are; returns the commit, 40 hexadecimal digits."""
        lines = "\n".join(f"{path} {hashlib.sha256(data).hexdigest()}" for path, data in sorted(self.files.items()))
        oid = hashlib.sha1(f"{len(self.history)}\n{lines}".encode()).hexdigest()
        self.history[oid] = dict(self.files)
        self.refs["main"] = oid
        return oid

    @property
    def head(self) -> str:
        return self.refs["main"]

    def resolve(self, revision: str) -> str | None:
        return self.refs.get(revision) or (revision if revision in self.history else None)

    def stored_apart(self, path: str) -> bool:
        return path in self.lfs | self.xet

    def etag(self, path: str, data: bytes) -> str:
        return hashlib.sha256(data).hexdigest() if self.stored_apart(path) else git_blob_sha1(data)

    def row(self, path: str, data: bytes) -> dict[str, Any]:
        """One file of a listing."""
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(data), "oid": git_blob_sha1(data)}
        if self.stored_apart(path):
            row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        return row


class FakeHub:
    """Listens from its making to `close`. url: for HF_ENDPOINT; log: all requests so far."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[Request] = []
        self.lfs_store: dict[str, bytes] = {}
        self._faults: dict[tuple[str, str], list[Fault]] = {}
        self._lock = threading.Lock()
        self._servers = [_Server(self, role) for role in ("hub", "cdn")]
        self.url = f"http://127.0.0.1:{self._servers[0].server_address[1]}"
        self.cdn_url = f"http://localhost:{self._servers[1].server_address[1]}"

    def add_repo(
        self,
        repo_id: str,
        files: Mapping[str, bytes],
        *,
        lfs: Iterable[str] = (),
        xet: Iterable[str] = (),
        gated: bool = False,
        private: bool = False,
    ) -> Repo:
        repo = Repo(dict(files), set(lfs), set(xet), gated, private)
        repo.commit()
        self.repos[repo_id] = repo
        return repo

    def fault(self, repo_id: str, path: str, times: int = 1, **what: Any) -> None:
        """The next `times` fitting answers about this file go wrong. what: the fields of Fault."""
        self._faults.setdefault((repo_id, path), []).extend([Fault(**what)] * times)

    def take_fault(self, repo_id: str, path: str, method: str) -> Fault:
        with self._lock:
            queue = self._faults.get((repo_id, path), [])
            return queue.pop(0) if queue and queue[0].fits(method) else WHOLE

    def reset(self) -> None:
        """Forgets repositories, faults and requests."""
        for memory in (self.repos, self.log, self.lfs_store, self._faults):
            memory.clear()

    def downloads(self) -> int:
        """How many GET requests for files came so far; a redirect is not one."""
        return sum(request.method == "GET" and request.status < 300 for request in self.log)

    def close(self) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> FakeHub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, hub: FakeHub, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.role = hub, role
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away is normal here."""


class _Refusal(Exception):
    """An answer that is an error: status, the Hub's X-Error-Code, message, further headers."""

    def __init__(self, status: int, code: str = "", message: str = "no such route", **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = {
            "X-Error-Message": message,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        if code:
            self.headers["X-Error-Code"] = code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    @property
    def hub(self) -> FakeHub:
        return self.server.hub

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on standard error: the hub keeps its own log."""

    def do_HEAD(self) -> None:
        self._answer(self._cdn if self.server.role == "cdn" else self._get)

    def do_GET(self) -> None:
        self.do_HEAD()

    def do_PUT(self) -> None:
        self._answer(self._put)

    def do_POST(self) -> None:
        self._answer(self._post)

    def _answer(self, route: Callable[[str], None]) -> None:
        try:
            route(urllib.parse.unquote(urllib.parse.urlsplit(self.path).path))
        except _Refusal as refusal:
            self.json({"error": str(refusal)}, refusal.status, refusal.headers)

    def reply(self, status: int, headers: Mapping[str, object], body: bytes = b"", length: int | None = None) -> None:
        wanted = self.headers.get("Range")
        request = Request(self.server.role, self.command, self.path, status, wanted, bool(self.token))
        self.hub.log.append(request)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def json(self, value: object, status: int = 200, headers: Mapping[str, object] | None = None) -> None:
        self.reply(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    # Downloads

    def _get(self, path: str) -> None:
        if path == "/api/whoami-v2":
            self._check_bearer()
            self.json({"name": "tester", "type": "user", "orgs": []})
        elif path.startswith("/api/models/"):
            self._about(path.split("/"))
        elif "/resolve/" in path:
            repo_id, _, rest = path.lstrip("/").partition("/resolve/")
            revision, _, name = rest.partition("/")
            self._resolve(repo_id, revision, name)
        else:
            raise _Refusal(404)

    def _cdn(self, path: str) -> None:
        sha256 = path.strip("/")
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        snapshots = self.hub.repos[query["repo"]].history.values()
        found = (data for files in snapshots for data in files.values() if hashlib.sha256(data).hexdigest() == sha256)
        self._send_file(query["repo"], query["path"], next(found), {"ETag": f'"{sha256}"'})

    def _open(self, repo_id: str, revision: str) -> tuple[Repo, str]:
        """The repository and the commit; the real Hub, too, says 401 to strangers and 404 or 403 to bearers."""
        repo = self.hub.repos.get(repo_id)
        if repo is None or (repo.private and self.token != repo.token):
            raise _Refusal(404 if self.token else 401, "RepoNotFound", "Repository not found")
        if repo.gated and self.token != repo.token:
            message = f"Access to model {repo_id} is restricted and you are not in the authorized list."
            raise _Refusal(403 if self.token else 401, "GatedRepo", message)
        commit = repo.resolve(revision)
        if commit is None:
            raise _Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, commit

    def _resolve(self, repo_id: str, revision: str, name: str) -> None:
        repo, commit = self._open(repo_id, revision)
        data = repo.history[commit].get(name)
        if data is None:
            raise _Refusal(404, "EntryNotFound", "Entry not found", X_Repo_Commit=commit)
        etag = repo.etag(name, data)
        headers: dict[str, object] = {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if not repo.stored_apart(name):
            self._send_file(repo_id, name, data, headers)
            return
        query = urllib.parse.urlencode({"repo": repo_id, "path": name})
        headers |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": len(data)}
        headers["Location"] = f"{self.hub.cdn_url}/{etag}?{query}"
        if name in repo.xet:
            route = f"{self.hub.url}/api/models/{repo_id}/xet-read-token/{commit}"
            headers |= {"X-Xet-Hash": hashlib.sha256(b"xet" + data).hexdigest(), "Link": f'<{route}>; rel="xet-auth"'}
        fault = self.hub.take_fault(repo_id, name, "HEAD") if self.command == "HEAD" else WHOLE
        if not self._went_wrong(fault):
            self.reply(302, {key: value for key, value in headers.items() if key not in fault.omit})

    def _went_wrong(self, fault: Fault) -> bool:
        """Waits as long as the fault says; whether a web page was the answer."""
        time.sleep(fault.delay)
        if fault.status:
            raise _Refusal(fault.status, message="fault")
        if fault.portal:
            self.reply(200, {"Content-Type": "text/html"}, PAGE)
        return fault.portal

    def _send_file(self, repo_id: str, name: str, data: bytes, headers: dict[str, object]) -> None:
        fault = self.hub.take_fault(repo_id, name, self.command)
        if self._went_wrong(fault):
            return
        headers = {key: value for key, value in headers.items() if key not in fault.omit}
        if fault.corrupt is not None:
            data = data[: fault.corrupt] + bytes([data[fault.corrupt] ^ 0xFF]) + data[fault.corrupt + 1 :]
        wanted = self.headers.get("Range")
        if wanted is None or fault.ignore_range:
            self._send_body(200, headers, data[: len(data) - fault.short], fault)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            raise _Refusal(416, message="no such range", Content_Range=f"bytes */{len(data)}")
        part = data[int(first) : int(last) + 1 if last else len(data)]
        headers["Content-Range"] = f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"
        self._send_body(206, headers, part[: len(part) - fault.short], fault)

    def _send_body(self, status: int, headers: Mapping[str, object], body: bytes, fault: Fault) -> None:
        end = fault.fin if fault.drop is None else fault.drop
        self.reply(status, headers, body[:end], length=len(body))
        self.wfile.flush()
        self.close_connection = self.close_connection or end is not None
        if fault.drop is not None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _about(self, parts: list[str]) -> None:
        repo_id, route, rest = "/".join(parts[3:5]), "".join(parts[5:6]), parts[6:]
        if route == "xet-read-token":
            raise _Refusal(500, message="there is no Xet here")
        repo, commit = self._open(repo_id, rest[0] if rest else "main")
        files = sorted(repo.history[commit].items())
        if route == "tree":
            self.json([repo.row(name, data) for name, data in files])
            return
        about = {"_id": "0", "id": repo_id, "modelId": repo_id, "sha": commit, "private": repo.private}
        about |= {"gated": "auto" if repo.gated else False, "tags": [], "downloads": 0, "likes": 0}
        self.json({**about, "siblings": [{"rfilename": name} for name, _ in files]})

    # Uploads

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while size := int(self.rfile.readline().split(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _check_bearer(self) -> None:
        if not self.token.startswith(TOKEN):
            raise _Refusal(401, message="Invalid credentials in Authorization header")

    def _put(self, path: str) -> None:
        data, sha256 = self._body(), path.rsplit("/", 1)[-1]
        if hashlib.sha256(data).hexdigest() != sha256:
            raise _Refusal(400, message="sha256 mismatch")
        self.hub.lfs_store[sha256] = data
        self.reply(200, {"ETag": f'"{sha256}"'})

    def _post(self, path: str) -> None:
        body = self._body()
        if path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
            return
        self._check_bearer()
        parts = path.split("/")
        if path == "/api/repos/create":
            self._create(json.loads(body))
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._lfs_batch(json.loads(body)["objects"])
        elif parts[5:6] == ["preupload"]:
            self._preupload(self._open("/".join(parts[3:5]), "main")[0], json.loads(body)["files"])
        elif parts[5:6] == ["commit"]:
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            self._take_commit("/".join(parts[3:5]), lines[0]["value"].get("parentCommit"), lines[1:])
        else:
            raise _Refusal(404)

    def _create(self, wanted: Mapping[str, Any]) -> None:
        repo_id = f"{wanted.get('organization') or 'tester'}/{wanted['name']}"
        exists = repo_id in self.hub.repos
        if not exists:
            private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            self.hub.add_repo(repo_id, {}, private=private)
        self.json({"url": f"{self.hub.url}/{repo_id}", "name": repo_id}, 409 if exists else 200)

    def _lfs_batch(self, objects: Iterable[Mapping[str, Any]]) -> None:
        rows: list[dict[str, Any]] = [{"oid": item["oid"], "size": item["size"]} for item in objects]
        for row in rows:
            if row["oid"] not in self.hub.lfs_store:
                row["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{row['oid']}"}}
        self.json({"transfer": "basic", "objects": rows})

    def _preupload(self, repo: Repo, files: Iterable[Mapping[str, Any]]) -> None:
        rows = []
        for item in files:
            large = item["path"].endswith(LFS_ENDINGS) or item["size"] > LFS_BYTES
            old = repo.history[repo.head].get(item["path"])
            oid = None if old is None else hashlib.sha256(old).hexdigest() if large else git_blob_sha1(old)
            mode = "lfs" if large else "regular"
            rows.append({"path": item["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": rows})

    def _take_commit(self, repo_id: str, parent: str | None, lines: Iterable[Mapping[str, Any]]) -> None:
        repo, head = self._open(repo_id, "main")
        if parent and parent != head:
            raise _Refusal(412, message="A commit has happened since. Please refresh and try again.")
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repo.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repo.files[value["path"]] = self.hub.lfs_store[value["oid"]]
                repo.lfs.add(value["path"])
            elif line["key"] == "deletedFile":
                repo.files.pop(value["path"], None)
        oid = repo.commit()
        self.json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo_id}/commit/{oid}"})
