"""Claims about fetching from the Hub, against a fake one on the loopback address and with the real client."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from fakehub import FakeHub
from huggingface_hub import constants, file_download, utils
from huggingface_hub.utils import _http
from rich.filesize import decimal

from medcli.errors import ModelError
from medcli.zoo import fetch as module
from medcli.zoo.fetch import HubFile, cached, fetch, is_there, remove

REPO, NAME = "acme/tiny", "tiny.safetensors"
DATA = hashlib.shake_128(b"weights").digest(30_000)
TEMPLATE = "/{repo_id}/resolve/{revision}/{filename}"


@pytest.fixture(scope="module")
def server() -> Iterator[FakeHub]:
    with FakeHub() as hub:
        yield hub


@pytest.fixture
def hub(server: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    """A Hub with one model, known to the client as the only one there is; nobody waits between tries."""
    for variable in [name for name in os.environ if name.startswith("HF_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_note", lambda file: tmp_path / "cache" / "verified" / file.sha256)
    monkeypatch.setattr(module, "PAUSES", (0, 0))
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(file_download, "time", hasty)
    monkeypatch.setattr(_http, "time", hasty)
    for constant, value in {
        "ENDPOINT": server.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": server.url + TEMPLATE,
        "HF_HUB_CACHE": str(tmp_path / "hub"),
        "HF_TOKEN_PATH": str(tmp_path / "token"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": False,
        "HF_HUB_ETAG_TIMEOUT": constants.DEFAULT_ETAG_TIMEOUT,
        "DOWNLOAD_CHUNK_SIZE": 1000,
    }.items():
        monkeypatch.setattr(constants, constant, value)
    address = server.url + TEMPLATE  # older clients have a copy of it
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", address, raising=False)
    server.reset()
    server.add_repo(REPO, {NAME: DATA, "config.json": b"{}"}, lfs={NAME})
    return server


def hub_file(hub: FakeHub, repo: str = REPO, name: str = NAME) -> HubFile:
    owner = hub.repos[repo]
    data = owner.files[name]
    return HubFile(repo.removeprefix("spaces/"), name, owner.head, len(data), hashlib.sha256(data).hexdigest())


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def error_of(file: HubFile) -> ModelError:
    with pytest.raises(ModelError) as caught:
        fetch(file, name="tiny")
    assert cached(file) is None
    assert caught.value.hint
    return caught.value


class TestSuccess:
    @pytest.mark.parametrize("name", [NAME, "config.json"])
    def test_the_file_arrives_and_is_announced(self, hub: FakeHub, tmp_path: Path, name: str) -> None:
        said: list[str] = []
        path = fetch(hub_file(hub, name=name), name="tiny", say=said.append)
        assert path.read_bytes() == hub.repos[REPO].files[name]
        (line,) = said
        assert "'tiny'" in line
        assert f": {decimal(len(hub.repos[REPO].files[name]))} from " in line
        assert str(tmp_path / "hub") in line

    @pytest.mark.parametrize(
        ("terminal", "quiet", "bars"), [(True, False, True), (True, True, False), (False, False, False)]
    )
    def test_a_bar_is_for_terminals_that_are_not_to_be_quiet(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, terminal: bool, quiet: bool, bars: bool
    ) -> None:
        class Screen(io.StringIO):
            def isatty(self) -> bool:
                return terminal

        screen = Screen()
        monkeypatch.setattr(sys, "stderr", screen)
        fetch(hub_file(hub), name="tiny", **({} if quiet else {"say": lambda _: None}))
        assert ("%|" in screen.getvalue()) == bars
        assert not utils.are_progress_bars_disabled()

    def test_a_size_that_is_not_stated_is_no_obstacle(self, hub: FakeHub) -> None:
        assert fetch(replace(hub_file(hub), bytes=None), name="tiny").read_bytes() == DATA

    def test_a_space_is_a_repository_too(self, hub: FakeHub) -> None:
        hub.add_repo("spaces/acme/demo", {"sub/model.pth": DATA}, lfs={"sub/model.pth"})
        file = replace(hub_file(hub, "spaces/acme/demo", "sub/model.pth"), kind="space")
        assert fetch(file, name="tiny").read_bytes() == DATA

    def test_a_cached_file_costs_no_request_and_no_hash(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        file = hub_file(hub)
        path = fetch(file, name="tiny")
        hub.log.clear()
        monkeypatch.setattr(module, "sha256_of", lambda _: pytest.fail("read again"))
        assert fetch(file, name="tiny") == cached(file) == path
        assert hub.log == []

    def test_offline_the_cache_serves(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        path = fetch(hub_file(hub), name="tiny")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch(hub_file(hub), name="tiny") == path

    def test_what_another_program_cached_is_used_after_a_check(self, hub: FakeHub) -> None:
        file = hub_file(hub)
        huggingface_hub.hf_hub_download(REPO, NAME, revision=file.revision)
        hub.log.clear()
        assert fetch(file, name="tiny").read_bytes() == DATA
        assert hub.log == []

    @pytest.mark.parametrize("damage", [b"", b"/nowhere 1 2 3 4", b"\x00\xff"])
    def test_a_damaged_note_costs_a_hash_only(self, hub: FakeHub, damage: bytes) -> None:
        path = fetch(hub_file(hub), name="tiny")
        note = module._note(hub_file(hub))
        before = note.read_bytes()
        note.write_bytes(damage)
        assert cached(hub_file(hub)) == path
        assert note.read_bytes() == before

    def test_a_note_that_cannot_be_written_is_no_obstacle(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").touch()
        monkeypatch.setattr(module, "_note", lambda file: tmp_path / "file" / "note")
        assert fetch(hub_file(hub), name="tiny") == cached(hub_file(hub))

    def test_a_token_opens_a_gated_repository_and_stays_with_the_hub(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        hub.repos[REPO].gated = True
        monkeypatch.setenv("HF_TOKEN", "hf_good")
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA
        assert {request.authorized for request in hub.log if request.origin == "hub"} == {True}
        assert {request.authorized for request in hub.log if request.origin == "cdn"} == {False}


class TestBrokenTransfers:
    def test_a_transfer_that_ends_early_is_resumed(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, fin=12_000)
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA
        assert [request.range for request in hub.log if request.origin == "cdn"] == [None, "bytes=12000-"]

    def test_a_reset_connection_is_tried_again(self, hub: FakeHub) -> None:
        said: list[str] = []
        hub.fault(REPO, NAME, drop=12_000)
        assert fetch(hub_file(hub), name="tiny", say=said.append).read_bytes() == DATA
        assert len(said) == 2
        assert "Trying again" in said[1]

    def test_tries_are_bounded(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, times=100, drop=12_000)
        error = error_of(hub_file(hub))
        assert "HF_HUB_DISABLE_XET" in error.hint
        assert hub.downloads() == 3

    def test_a_busy_hub_is_tried_again(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, status=503, only="HEAD")
        hub.fault(REPO, NAME, status=503, only="GET")
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA

    @pytest.mark.parametrize("status", [429, 500, 503])
    def test_a_hub_that_stays_busy_is_an_error(self, hub: FakeHub, status: int) -> None:
        hub.fault(REPO, NAME, times=100, status=status)
        assert str(status) in error_of(hub_file(hub)).problem

    def test_a_short_answer_is_not_taken_for_the_file(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, short=100)
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA
        remove(hub_file(hub))
        hub.fault(REPO, NAME, times=100, short=100)
        error_of(hub_file(hub))

    def test_wrong_bytes_are_fetched_once_more(self, hub: FakeHub) -> None:
        said: list[str] = []
        hub.fault(REPO, NAME, corrupt=0)
        assert fetch(hub_file(hub), name="tiny", say=said.append).read_bytes() == DATA
        assert "corrupt" in said[1]

    def test_wrong_bytes_twice_are_refused_and_removed(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.fault(REPO, NAME, times=2, corrupt=29_999)
        assert "twice" in error_of(hub_file(hub)).problem
        assert bytes_in(tmp_path / "hub" / "models--acme--tiny") == 0

    def test_a_file_that_is_not_the_pinned_one_is_refused(self, hub: FakeHub) -> None:
        assert "twice" in error_of(replace(hub_file(hub), sha256="0" * 64)).problem
        assert "twice" in error_of(replace(hub_file(hub), bytes=29_999)).problem

    def test_xet_that_cannot_be_reached_falls_back_to_http(self, hub: FakeHub) -> None:
        hub.add_repo("acme/xet", {NAME: DATA}, xet={NAME})
        said: list[str] = []
        assert fetch(hub_file(hub, "acme/xet"), name="tiny", say=said.append).read_bytes() == DATA
        assert "xet-read-token" in " ".join(request.path for request in hub.log)
        assert "HF_HUB_DISABLE_XET" in said[1]
        assert constants.HF_HUB_DISABLE_XET is False

    @pytest.mark.parametrize("tenth", range(10))
    @pytest.mark.parametrize("kind", ["fin", "drop", "corrupt"])
    @pytest.mark.parametrize("times", [1, 100])
    def test_a_fault_at_any_tenth_ends_in_the_file_or_an_error(
        self, hub: FakeHub, tenth: int, kind: str, times: int
    ) -> None:
        """Once, and at every try. Never in wrong bytes that anyone would use."""
        file = hub_file(hub)
        hub.fault(REPO, NAME, times=times, **{kind: len(DATA) * tenth // 10})
        if times == 1:
            assert fetch(file, name="tiny").read_bytes() == DATA
            return
        try:
            assert fetch(file, name="tiny").read_bytes() == DATA
        except ModelError:
            assert cached(file) is None
            kept = Path(constants.HF_HUB_CACHE).rglob("blobs/*")
            assert {path.suffix for path in kept} <= {".incomplete"}  # older clients resume these


class TestErrors:
    def test_what_is_not_there(self, hub: FakeHub) -> None:
        file = hub_file(hub)
        assert "no repository" in error_of(replace(file, repo="acme/other")).problem
        assert "no revision" in error_of(replace(file, revision="0" * 40)).problem
        assert "no file other.bin" in error_of(replace(file, file="other.bin")).problem

    def test_a_gated_repository_says_how_to_get_in(self, hub: FakeHub) -> None:
        hub.repos[REPO].gated = True
        error = error_of(hub_file(hub))
        assert "gated" in error.problem
        assert "HF_TOKEN" in error.hint
        assert f"{hub.url}/{REPO}" in error.hint

    def test_a_private_repository_says_that_it_may_be(self, hub: FakeHub) -> None:
        hub.repos[REPO].private = True
        assert "HF_TOKEN" in error_of(hub_file(hub)).hint

    @pytest.mark.parametrize(("status", "word"), [(401, "HF_TOKEN"), (403, "proxy"), (404, "login page")])
    def test_other_refusals_are_explained_and_not_repeated(self, hub: FakeHub, status: int, word: str) -> None:
        hub.fault(REPO, NAME, times=100, status=status)
        error = error_of(hub_file(hub))
        assert str(status) in error.problem
        assert word in error.hint
        assert len(hub.log) == 1

    @pytest.mark.parametrize("listening", [False, True])
    def test_a_hub_that_is_out_of_reach_is_an_error_after_one_try(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, listening: bool
    ) -> None:
        """Nobody at the address, or one who never answers. The client alone would try for minutes."""
        monkeypatch.setattr(module, "PROBE_SECONDS", 0.05)
        for clock in ("time", "huggingface_hub.utils._http.time"):
            monkeypatch.setattr(f"{clock}.sleep", lambda _: pytest.fail("waited"))
        monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *_, **__: pytest.fail("tried on"))
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"http://127.0.0.1:{silent.getsockname()[1]}"
            for home in (constants, file_download):
                monkeypatch.setattr(home, "HUGGINGFACE_CO_URL_TEMPLATE", address + TEMPLATE, raising=False)
            if not listening:
                silent.close()
            error = error_of(hub_file(hub))
        assert "cannot be reached" in error.problem
        assert "bundle" in error.hint

    def test_a_cache_below_a_file_is_not_the_networks_fault(
        self, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "file" / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "file" / "token"))
        assert "cannot be put into" in error_of(hub_file(hub)).problem

    def test_a_login_page_is_not_taken_for_the_hub(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, portal=True)
        assert "login page" in error_of(hub_file(hub)).hint

    def test_a_login_page_is_not_taken_for_the_file(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, times=100, portal=True, only="GET")
        error_of(hub_file(hub))

    def test_an_answer_without_digest_is_not_the_hubs(self, hub: FakeHub) -> None:
        hub.fault(REPO, NAME, omit=("X-Linked-Etag", "ETag"))
        assert "does not answer as a Hub" in error_of(hub_file(hub)).problem

    def test_offline_and_not_cached(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE forbids" in error_of(hub_file(hub)).problem
        assert hub.log == []

    @pytest.mark.parametrize("address", ["hub.local", "", "ftp://hub.local", "https://"])
    def test_an_endpoint_that_is_no_address(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, address: str) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", address)
        assert "HF_ENDPOINT" in error_of(hub_file(hub)).problem

    def test_too_little_room_is_seen_before_anything_is_fetched(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=29_999))
        assert "HF_HOME" in error_of(hub_file(hub)).hint
        assert hub.downloads() == 0

    @pytest.mark.parametrize(
        ("number", "word"), [("ENOSPC", "no room"), ("EACCES", "cannot be put"), ("EROFS", "put"), ("EFBIG", "no room")]
    )
    def test_a_disk_that_refuses_is_not_tried_again(
        self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch, number: str, word: str
    ) -> None:
        tries: list[str] = []

        def refuse(*_: object, **__: object) -> None:
            tries.append(number)
            raise OSError(getattr(errno, number), "refused")

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        assert word in error_of(hub_file(hub)).problem
        assert tries == [number]


class TestRot:
    @pytest.mark.parametrize("times_kept", [False, True])
    def test_bytes_that_rot_in_the_cache_are_replaced(self, hub: FakeHub, times_kept: bool) -> None:
        path = fetch(hub_file(hub), name="tiny")
        before = path.stat()
        path.write_bytes(b"\x00" + DATA[1:])
        if times_kept:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert cached(hub_file(hub)) is None
        assert is_there(hub_file(hub))
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA

    def test_rotten_bytes_do_not_count_as_a_corrupt_transfer(self, hub: FakeHub) -> None:
        said: list[str] = []
        fetch(hub_file(hub), name="tiny").write_bytes(b"\x00" + DATA[1:])
        hub.fault(REPO, NAME, corrupt=0)
        assert fetch(hub_file(hub), name="tiny", say=said.append).read_bytes() == DATA
        assert ["again" in line for line in said] == [False, True]

    def test_rotten_bytes_are_not_used_offline(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        path = fetch(hub_file(hub), name="tiny")
        path.write_bytes(DATA[:-1])
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert "HF_HUB_OFFLINE" in error_of(hub_file(hub)).problem

    def test_bytes_that_rot_in_the_shared_store_are_replaced(self, hub: FakeHub, tmp_path: Path) -> None:
        path = fetch(hub_file(hub), name="tiny")
        stored = share(path)
        stored.write_bytes(b"\x00" + DATA[1:])
        assert fetch(hub_file(hub), name="tiny").read_bytes() == DATA


def share(path: Path) -> Path:
    """Moves a blob to where all repositories share it, as the client does for files from Xet."""
    blob = path.resolve()
    stored = Path(constants.HF_HUB_CACHE) / "blobs" / "ab" / ("ab" * 32)
    stored.parent.mkdir(parents=True, exist_ok=True)
    blob.replace(stored)
    blob.symlink_to(os.path.relpath(stored, blob.parent))
    return stored


class TestRemove:
    def test_link_and_bytes_go_and_are_counted(self, hub: FakeHub, tmp_path: Path) -> None:
        path = fetch(hub_file(hub), name="tiny")
        assert remove(hub_file(hub)) == len(DATA)
        assert bytes_in(tmp_path / "hub" / "models--acme--tiny") == 0
        assert not path.parent.exists()
        assert remove(hub_file(hub)) == 0
        assert cached(hub_file(hub)) is None

    def test_bytes_that_another_snapshot_uses_stay(self, hub: FakeHub) -> None:
        first = hub_file(hub)
        hub.repos[REPO].files["README.md"] = b"news"
        hub.repos[REPO].commit()
        second = hub_file(hub)
        fetch(first, name="tiny")
        fetch(second, name="tiny")
        assert remove(first) == 0
        assert cached(first) is None
        assert cached(second) is not None
        assert remove(second) == len(DATA)

    def test_other_files_of_the_snapshot_stay(self, hub: FakeHub) -> None:
        fetch(hub_file(hub), name="tiny")
        other = fetch(hub_file(hub, name="config.json"), name="tiny")
        remove(hub_file(hub))
        assert other.read_bytes() == b"{}"

    def test_bytes_in_the_shared_store_go_with_their_last_user(self, hub: FakeHub) -> None:
        hub.add_repo("acme/twin", {NAME: DATA}, lfs={NAME})
        files = hub_file(hub), hub_file(hub, "acme/twin")
        stored, _ = [share(fetch(file, name="tiny")) for file in files]
        assert remove(files[0]) == 0
        assert stored.exists()
        assert remove(files[1]) == len(DATA)
        assert not stored.exists()

    def test_a_cache_that_cannot_be_written_is_an_error(self, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
        fetch(hub_file(hub), name="tiny")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(ModelError, match="Permission denied"):
            remove(hub_file(hub))


class TestLeftovers:
    @pytest.fixture
    def leftover(self, hub: FakeHub, tmp_path: Path) -> Path:
        """What a killed transfer of the file leaves."""
        path = tmp_path / "hub" / "models--acme--tiny" / "blobs" / f"{hub_file(hub).sha256}.0a1b2c3d.incomplete"
        path.parent.mkdir(parents=True)
        path.write_bytes(DATA[:1000])
        os.utime(path, (0, 0))
        return path

    def test_those_of_dead_transfers_go(self, hub: FakeHub, leftover: Path) -> None:
        other = leftover.with_name(f"{'0' * 64}.0a1b2c3d.incomplete")
        other.touch()
        fetch(hub_file(hub), name="tiny")
        assert not leftover.exists()
        assert other.exists()

    def test_removing_frees_them(self, hub: FakeHub, leftover: Path) -> None:
        assert remove(hub_file(hub)) == 1000

    def test_those_just_written_to_stay(self, hub: FakeHub, leftover: Path) -> None:
        leftover.touch()
        fetch(hub_file(hub), name="tiny")
        assert leftover.exists()


FETCH = """
import sys
from medcli.zoo.fetch import HubFile, fetch
assert not {"huggingface_hub", "torch", "cv2"} & set(sys.modules)
repo, file, revision, size, sha256 = sys.argv[1:]
print(fetch(HubFile(repo, file, revision, int(size), sha256), name="tiny", say=sys.stderr.write))
"""


class TestProcesses:
    def start(self, file: HubFile, **environment: str) -> subprocess.Popen[str]:
        known = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTEST"))}
        command = [sys.executable, "-c", FETCH, file.repo, file.file, file.revision, str(file.bytes), file.sha256]
        known["PYTHONPATH"] = str(Path(module.__file__).parents[2])
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, env={**known, **environment}, **pipes)

    def test_two_that_fetch_the_same_model_both_get_it(self, hub: FakeHub, tmp_path: Path) -> None:
        """Through the environment alone, as a shell sets it; the bytes travel once."""
        hub.repos[REPO].private = True
        hub.fault(REPO, NAME, delay=0.5, only="GET")
        home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_good"}
        both = [self.start(hub_file(hub), **home) for _ in range(2)]
        answers = [process.communicate(timeout=60) for process in both]
        assert [process.returncode for process in both] == [0, 0], answers
        (path,) = {Path(printed.strip()) for printed, _ in answers}
        assert path.read_bytes() == DATA
        assert tmp_path / "home" / "hub" in path.parents
        assert hub.downloads() == 1

    def test_the_environment_forbids_and_places(self, hub: FakeHub, tmp_path: Path) -> None:
        hub.add_repo("acme/tiny", {NAME: DATA})
        fetch(hub_file(hub), name="tiny")
        hub.log.clear()
        process = self.start(hub_file(hub), HF_HUB_CACHE=str(tmp_path / "hub"), HF_HUB_OFFLINE="1")
        printed, complaint = process.communicate(timeout=60)
        assert Path(printed.strip()).read_bytes() == DATA, complaint
        assert hub.log == []
