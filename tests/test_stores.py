"""Object stores, against a real S3 server on the loopback address (moto's, in a process of its own)."""

from __future__ import annotations

import functools
import http.server
import json
import os
import pickle
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_batch import write_png
from test_cli_denoise import Med, events, home, med, tiny  # noqa: F401 - fixtures

from medcli.batch.denoise.plan import parse_list
from medcli.errors import InputError, MedcliError, OutputError
from medcli.files import stores
from medcli.files.stores import StorePath, mark_of, objects_below, read_object, write_object


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    pytest.importorskip("moto.server", reason="moto's server is not installed")
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        port = door.getsockname()[1]
    code = f"from moto.server import main; main(['-H', '127.0.0.1', '-p', '{port}'])"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            assert process.poll() is None
            time.sleep(0.05)
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture
def bucket(server: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in (
        ("AWS_ENDPOINT_URL", server), ("AWS_ACCESS_KEY_ID", "AKIASECRETKEY"), ("AWS_SECRET_ACCESS_KEY", "verysecret"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    name = f"b{abs(hash(request.node.name)) % 10**9}"
    stores.file_system("s3").mkdir(name)
    return name


@pytest.fixture
def images(bucket: str, home: Path) -> str:  # noqa: F811
    """The folder `in` of the tests of files, in a bucket, with what is no image."""
    for path in (home / "in").rglob("*.*"):
        write_object(StorePath.of(f"s3://{bucket}/in/{path.relative_to(home / 'in').as_posix()}"), path.read_bytes())
    write_object(StorePath.of(f"s3://{bucket}/in/notes.txt"), b"no image")
    write_object(StorePath.of(f"s3://{bucket}/in/.hidden.png"), b"no image")
    return f"s3://{bucket}/in"


def stored(folder: str) -> dict[str, bytes]:
    root = StorePath.of(folder)
    found = {each.relative_to(root).as_posix(): each for each in objects_below(root, recursive=True)}
    return {name: read_object(each)[0] for name, each in found.items() if not name.startswith(".")}


def local(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("[!.]*.*")}


def statuses(ran: Any) -> list[str]:
    return [each["status"] for each in events(ran)]


class TestDenoise:
    def test_the_same_bytes_as_from_files_and_skipped_later(self, med: Med, home: Path, images: str) -> None:  # noqa: F811
        assert med("denoise", "in", "-o", "out", "-r").code == 0
        there = images.replace("/in", "/out")
        ran = med("denoise", images, "-o", there, "-r", "--json")
        assert (ran.code, statuses(ran)) == (0, ["done"] * 5)
        assert stored(there) == local(home / "out")
        assert statuses(med("denoise", images, "-o", there, "-r", "--json")) == ["skipped"] * 5
        assert statuses(med("denoise", images, "-o", there, "-r", "--json", "--strength", "0.5")) == ["done"] * 5
        write_object(StorePath.of(f"{images}/1.png"), (home / "in/0.png").read_bytes())
        assert sorted(statuses(med("denoise", images, "-o", there, "--json", "--strength", "0.5"))) == [
            "done", *["skipped"] * 3,
        ]  # fmt: skip
        assert statuses(med("denoise", images, "-o", there, "-r", "--json", "--force")) == ["done"] * 5

    def test_the_mark_of_a_result_is_enough(self, med: Med, images: str) -> None:  # noqa: F811
        there = images.replace("/in", "/out")
        med("denoise", images, "-o", there)
        for part in objects_below(StorePath.of(f"{there}/.medcli")):
            stores.file_system("s3").rm(str(part))
        assert statuses(med("denoise", images, "-o", there, "--json")) == ["skipped"] * 4

    def test_objects_of_others_stay(self, med: Med, images: str) -> None:  # noqa: F811
        there = images.replace("/in", "/out")
        mine = StorePath.of(f"{there}/1.png")
        write_object(mine, b"mine")
        ran = med("denoise", images, "-o", there, "--json")
        assert ran.code == 3
        assert sorted(statuses(ran)) == ["done", "done", "done", "failed"]
        assert f"{mine} exists, and is no result of an earlier run." in ran.err
        assert read_object(mine)[0] == b"mine"

    def test_here_to_there_and_there_to_here(self, med: Med, home: Path, images: str) -> None:  # noqa: F811
        assert med("denoise", "in", "-o", "out", "-r").code == 0
        there = images.replace("/in", "/up/")
        assert statuses(med("denoise", "in", "-o", there, "-r", "--json")) == ["done"] * 5
        assert stored(there) == local(home / "out")
        assert statuses(med("denoise", "in", "-o", there, "-r", "--json")) == ["skipped"] * 5
        assert statuses(med("denoise", images, "-o", "down", "-r", "--json")) == ["done"] * 5
        assert local(home / "down") == local(home / "out")
        assert statuses(med("denoise", images, "-o", "down", "-r", "--json")) == ["skipped"] * 5

    def test_single_objects_and_lists(self, med: Med, home: Path, images: str) -> None:  # noqa: F811
        assert med("denoise", f"{images}/0.png").code == 0
        assert "0.denoised.png" in stored(images)
        assert med("denoise", f"{images}/0.png", "-o", "x.png").code == 0
        names = f"{images}/0.png\n{images}/1.png\nin/2.jpg\n".encode()
        assert statuses(med("denoise", "--files-from", "-", "-o", "few", "--json", stdin=names)) == ["done"] * 3
        assert sorted(local(home / "few")) == ["0.png", "1.png", "2.jpg"]
        ran = med("denoise", f"{images}/none.png", "-o", "few")
        assert (ran.code, f"There is no file {images}/none.png." in ran.err) == (1, True)

    def test_workers(self, med: Med, home: Path, images: str) -> None:  # noqa: F811
        assert med("denoise", "in", "-o", "out", "-r").code == 0
        there = images.replace("/in", "/out")
        assert statuses(med("denoise", images, "-o", there, "-r", "--json", "--workers", "2")) == ["done"] * 5
        assert stored(there) == local(home / "out")
        for number in (1, 2):
            ran = med("denoise", images, "-o", there, "-r", "--json", "--shard", f"{number}/2")
            assert set(statuses(ran)) == {"skipped"}

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("IN -o IN", 1, "would lie among the images"),
            ("IN/nothing", 1, "holds no image"),
            ("IN --keep-time", 2, "do not go with object stores"),
            ("IN in/0.png", 2, "-o FOLDER"),
            ("s3://user:verysecret@host/x.png", 2, "contains a query or a password"),
            ("https://host/x.png?signature=verysecret", 2, "contains a query or a password"),
            ("in -o https://127.0.0.1:9/x", 1, "Nothing can be written to https://127.0.0.1:9/x"),
            ("https://127.0.0.1:9/x.png", 1, "no place for the result"),
            ("s3://none-of-mine/ -o out", 1, "s3://none-of-mine"),
        ],
    )
    def test_messages(self, med: Med, images: str, words: str, code: int, message: str) -> None:  # noqa: F811
        ran = med("denoise", *words.replace("IN", images).split())
        assert ran.code == code
        assert message in ran.err
        assert "verysecret" not in ran.err

    def test_no_credentials_in_messages_and_manifests(self, med: Med, images: str) -> None:  # noqa: F811
        there = images.replace("/in", "/out")
        ran = med("denoise", images, "-o", there)
        kept = b"".join(read_object(each)[0] for each in objects_below(StorePath.of(f"{there}/.medcli")))
        assert kept.count(b"\n") == 4
        for secret in ("AKIASECRETKEY", "verysecret"):
            assert secret not in ran.err
            assert secret.encode() not in kept

    def test_killed_and_started_again(self, home: Path, tiny: Path, images: str) -> None:  # noqa: F811
        for number in range(25):
            write_png(home / f"many/{number}.png", number)
        for path in (home / "many").iterdir():
            write_object(StorePath.of(f"{images}/many/{path.name}"), path.read_bytes())
        there = images.replace("/in", "/many")
        words = f"denoise {images}/many -o {there} --json --model {tiny}"
        command, chance = [sys.executable, "-m", "medcli", *words.split()], random.Random(1)
        for _ in range(2):
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout is not None
                for _ in range(chance.randint(2, 8)):
                    process.stdout.readline()
                process.send_signal(signal.SIGKILL)
        assert 0 < len(stored(there)) < 25
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        ended = [json.loads(line)["status"] for line in done.stdout.splitlines() if '"image"' in line]
        assert set(ended) == {"done", "skipped"}
        assert len(stored(there)) == len(ended) == 25


class TestObjects:
    def test_listings_come_in_pages(self, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(stores, "PAGE", 10)
        for number in range(35):
            write_object(StorePath.of(f"s3://{bucket}/a/{number:02}.png"), b"x")
        write_object(StorePath.of(f"s3://{bucket}/a/deeper/x.png"), b"x")
        folder = StorePath.of(f"s3://{bucket}/a")
        assert [each.name for each in objects_below(folder)] == [f"{number:02}.png" for number in range(35)]
        assert len(list(objects_below(folder, recursive=True))) == 36
        first = next(iter(objects_below(folder)))
        assert (first.tag, read_object(first)) == (read_object(first)[1], (b"x", first.tag))

    def test_marks(self, bucket: str) -> None:
        path = StorePath.of(f"s3://{bucket}/a.png")
        assert mark_of(path) is None
        write_object(path, b"x", "made of this")
        assert mark_of(path) == "made of this"
        write_object(path, b"x")
        assert mark_of(path) == ""

    def test_errors_name_the_object(self, bucket: str) -> None:
        with pytest.raises(InputError, match=f"There is no file s3://{bucket}/none"):
            read_object(StorePath.of(f"s3://{bucket}/none"))
        with pytest.raises(OutputError, match="Nothing can be written"):
            write_object(StorePath.of("http://host/x"), b"")

    def test_a_driver_that_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(MedcliError, match="gs://") as caught:
            read_object(StorePath.of("gs://bucket/x"))
        assert caught.value.hint == "pip install 'medcli[gs]'"


def test_the_web_is_read(med: Med, home: Path) -> None:  # noqa: F811
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(home / "in"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{web.server_port}"
        assert med("denoise", f"{address}/0.png", f"{address}/1.png", "-o", "out").code == 0
        assert med("denoise", "in/0.png", "-o", "here/").code == 0
        assert (home / "out/0.png").read_bytes() == (home / "here/0.png").read_bytes()
        assert (
            statuses(med("denoise", f"{address}/0.png", f"{address}/1.png", "-o", "out", "--json")) == ["skipped"] * 2
        )
        assert "list no folders" in med("denoise", f"{address}/", "-o", "out").err
        web.shutdown()


def test_addresses_are_paths() -> None:
    path = StorePath.of("s3://bucket/a b/x.png", "tag")
    assert str(path) == os.fspath(path) == path.as_posix() == "s3://bucket/a b/x.png"
    assert str(path.with_name("y.tif")) == "s3://bucket/a b/y.tif"
    assert path.relative_to(StorePath.of("s3://bucket")).as_posix() == "a b/x.png"
    assert str(StorePath.of("s3://bucket/out/") / "a" / "b.png") == "s3://bucket/out/a/b.png"
    again = pickle.loads(pickle.dumps(path))
    assert (again, again.tag) == (path, "tag")
    assert not path.exists()
    assert not path.is_dir()
    assert [type(each) is StorePath for each in parse_list(b"s3://b/x.png\nx.png\n")] == [True, False]


def test_nothing_of_it_is_imported_for_files() -> None:
    code = "import sys, medcli.cli.denoise_run, medcli.batch.executors.choose; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"fsspec", "s3fs", "ray", "aiohttp", "botocore"} & set(done.stdout.split())
