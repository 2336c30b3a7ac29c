"""`med denoise` with several processes, lists of files and shards: the same files as one process makes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from test_batch import write_png
from test_cli_denoise import Med, Ran, events, home, left_behind, med, tiny  # noqa: F401 - fixtures

from medcli.batch.denoise.files import MANIFESTS, ImageFiles, Settings
from medcli.batch.denoise.manifest import FILE_NAME, PART, Identity, Manifest
from medcli.batch.denoise.plan import Job, OutputNaming, make_plan, parse_list
from medcli.batch.shards import Shard
from medcli.errors import InputError, MedcliError


def content(folder: str) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("[!.]*.*")}


def outputs(folder: str) -> list[str]:
    """Of each line of the manifest, in order."""
    lines = Path(folder, FILE_NAME).read_text().splitlines()
    assert not list(Path(folder).glob(PART.format("*")))
    return sorted(json.loads(line)["output"] for line in lines)


class TestWorkers:
    def test_they_make_the_files_of_one_process_and_skip_them_later(self, med: Med) -> None:  # noqa: F811
        assert med("denoise", "in", "-o", "one", "-r").code == 0
        ran = med("denoise", "in", "-o", "two", "-r", "--workers", "2", "--json")
        assert ran.code == 0
        assert content("two") == content("one")
        assert outputs("two") == outputs("one") == ["0.png", "1.png", "2.jpg", "3.bmp", "sub/4.png"]
        assert {each["status"] for each in events(ran)} == {"done"}
        assert {each["device"] for each in events(ran)} == {"cpu"}
        for again in (["--workers", "2"], ["--device", "cpu,cpu"], []):
            ran = med("denoise", "in", "-o", "two", "-r", "--json", *again)
            assert [each["status"] for each in events(ran)] == ["skipped"] * 5, again
        assert not multiprocessing.active_children()

    def test_a_bad_file_fails_alone_with_the_same_words(self, med: Med, home: Path) -> None:  # noqa: F811
        (home / "in/1.png").write_bytes((home / "in/1.png").read_bytes()[:99])
        one, two = med("denoise", "in", "-o", "one"), med("denoise", "in", "-o", "two", "--workers", "2")
        assert (one.code, two.code) == (3, 3)
        assert one.err.splitlines()[-2:] == two.err.splitlines()[-2:]
        assert one.err.splitlines()[-1].startswith("  in/1.png is damaged")
        assert content("one") == content("two")

    def test_an_unfit_device_is_one_error(self, med: Med) -> None:  # noqa: F811
        ran = med("denoise", "in", "-o", "out", "--device", "cuda:7,cuda:8")
        assert ran.code == 1
        assert ran.err.startswith("error: CUDA was requested") or "There is no GPU number" in ran.err
        assert not multiprocessing.active_children()

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("- -o a.png --workers 2", 2, "leave --workers and --cluster out"),
            ("in/0.png -o - --device cpu,cpu", 2, "leave --workers and --cluster out"),
            ("in --device cpu,auto", 2, "name each device"),
            ("in --shard 0/4", 2, "the first is 1/8"),
            ("in --shard 5/4", 2, "the first is 1/8"),
            ("--files-from nothing", 1, "nothing"),
            ("--files-from /dev/null", 1, "The list of files is empty"),
            ("- --files-from list", 2, "cannot be mixed"),
            ("--files-from list --mask masks", 2, "not those of --files-from"),
        ],
    )
    def test_options_that_do_not_go_together(self, med: Med, words: str, code: int, message: str) -> None:  # noqa: F811
        ran = med("denoise", *words.split())
        assert ran.code == code
        assert message in ran.err


@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
class TestInterruption:
    @pytest.fixture
    def command(self, home: Path, tiny: Path) -> list[str]:  # noqa: F811
        for number in range(40):
            write_png(home / f"many/{number}.png", number)
        words = f"denoise many -o out --workers 2 --json --model {tiny}"
        return [sys.executable, "-m", "medcli", *words.split()]

    def test_ctrl_c_ends_all_and_the_next_run_goes_on(self, command: list[str], home: Path) -> None:  # noqa: F811
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            for _ in range(3):
                process.stdout.readline()  # the start, and two images
            os.killpg(process.pid, signal.SIGINT)
            rest, said = process.stdout.read(), process.stderr.read()  # end when the last process has ended
        assert process.returncode == 130
        last = json.loads(rest.splitlines()[-1])
        assert (last["event"], last["complete"]) == ("end", False)
        assert "Traceback" not in said
        assert not left_behind(home)
        done = outputs("out")
        assert 2 <= len(done) < 40
        assert done == sorted(content("out"))
        assert subprocess.run(command, capture_output=True, check=True).returncode == 0
        assert len(content("out")) == 40

    def test_killed_workers_cost_nothing(self, command: list[str], home: Path) -> None:  # noqa: F811
        chance = random.Random(0)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            process.stdout.readline()
            for _ in range(3):
                time.sleep(chance.uniform(0, 0.2))
                killed = chance.choice(children(process.pid) or [0])
                if killed:
                    os.kill(killed, signal.SIGKILL)
            process.communicate()
        assert process.returncode == 0
        assert outputs("out") == sorted(content("out"))
        assert len(content("out")) == 40
        assert not left_behind(home)


def children(pid: int) -> list[int]:
    """Workers of a process: children with a whole interpreter, not the tracker of multiprocessing."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found if b"spawn_main" in Path(f"/proc/{each}/cmdline").read_bytes()]


class TestLists:
    def test_relative_names_are_mirrored_and_others_are_not(self, med: Med, home: Path) -> None:  # noqa: F811
        Path("list").write_text(f"in/0.png\n\nin/sub/4.png\n{home}/in/1.png\n../{home.name}/in/2.jpg\n")
        assert med("denoise", "--files-from", "list", "-o", "out").code == 0
        assert sorted(content("out")) == ["1.png", "2.jpg", "in/0.png", "in/sub/4.png"]

    def test_standard_input_with_zero_bytes(self, med: Med) -> None:  # noqa: F811
        Path("a\nb.png").write_bytes(Path("in/0.png").read_bytes())
        ran = med("denoise", "in/3.bmp", "--files-from", "-", "-o", "out", stdin=b"a\nb.png\0in/1.png\0")
        assert ran.code == 0
        assert sorted(content("out")) == ["3.bmp", "a\nb.png", "in/1.png"]

    def test_one_name_is_a_list_too_and_a_missing_file_fails_alone(self, med: Med) -> None:  # noqa: F811
        assert med("denoise", "--files-from", "-", "-o", "out", stdin=b"in/0.png\n").code == 0
        assert list(content("out")) == ["in/0.png"]
        ran = med("denoise", "--files-from", "-", "-o", "out", stdin=b"in/0.png\nin/none.png\r\nin/1.png\n")
        assert ran.code == 3
        assert "There is no file in/none.png." in ran.err
        assert sorted(content("out")) == ["in/0.png", "in/1.png"]

    def test_an_empty_list(self) -> None:
        with pytest.raises(InputError, match="list of files is empty"):
            parse_list(b"\n\n")

    def test_very_many_folders_keep_few_manifests_open(self, tmp_path: Path) -> None:
        files = ImageFiles(Settings("w"), None, shared=True)
        jobs = []
        for number in range(2 * MANIFESTS):
            write_png(tmp_path / f"{number}.png", number)
            jobs.append(Job(tmp_path / f"{number}.png", tmp_path / f"out{number}/x.png", tmp_path / f"out{number}"))
        for job in jobs:
            files.write(job, files.read(job))
        assert len(files._manifests) == MANIFESTS
        files.close()
        files.tidy(jobs)
        assert all(Manifest(job.root).made(job.target) for job in jobs if job.root)


class TestShards:
    def test_together_they_are_everything_and_nothing_twice(self, med: Med) -> None:  # noqa: F811
        done: list[str] = []
        for number in (1, 2, 3):
            ran = med("denoise", "in", "-o", "out", "-r", "--shard", f"{number}/3", "--json")
            assert ran.code == 0
            done += [each["input"] for each in events(ran)]
        assert sorted(done) == ["in/0.png", "in/1.png", "in/2.jpg", "in/3.bmp", "in/sub/4.png"]
        assert outputs("out") == ["0.png", "1.png", "2.jpg", "3.bmp", "sub/4.png"]
        assert [each["status"] for each in events(med("denoise", "in", "-o", "out", "-r", "--json"))] == ["skipped"] * 5

    def test_shares_are_even_and_do_not_depend_on_other_files(self) -> None:
        shards = [Shard(number, 8) for number in range(1, 9)]
        names = [f"{number:05}.png" for number in range(8000)]
        sizes = [sum(name in shard for name in names) for shard in shards]
        assert sum(sizes) == 8000
        assert all(850 < size < 1150 for size in sizes)
        assert [name for name in names[:9] if name in Shard(2, 3)] == ["00003.png", "00004.png", "00005.png"]

    def test_notation(self) -> None:
        assert Shard.parse("3/8") == Shard(3, 8)
        with pytest.raises(MedcliError, match="'3' is no shard"):
            Shard.parse("3")


class TestParts:
    """Of manifests, where several processes write into one folder."""

    @pytest.fixture
    def record(self, tmp_path: Path) -> partial[None]:
        (tmp_path / "in.png").write_bytes(b"in")

        def record(manifest: Manifest, name: str, content: bytes = b"out") -> None:
            (manifest.root / name).write_bytes(content)
            source, result = Identity.of(tmp_path / "in.png"), Identity.of(manifest.root / name)
            manifest.record(manifest.root / name, "s", source, result)

        return partial(record)

    def test_each_process_has_one_and_all_are_read(self, record: partial[None], tmp_path: Path) -> None:
        first, second = Manifest(tmp_path, shared=True), Manifest(tmp_path, shared=True)
        record(first, "a.png")
        record(second, "b.png")
        assert not (tmp_path / FILE_NAME).exists()
        assert Manifest(tmp_path).results() == {tmp_path / "a.png", tmp_path / "b.png"}
        assert Manifest(tmp_path).up_to_date(tmp_path / "b.png", tmp_path / "in.png", "s")

    def test_only_parts_of_processes_that_are_gone_are_merged(self, record: partial[None], tmp_path: Path) -> None:
        gone, alive = Manifest(tmp_path, shared=True), Manifest(tmp_path, shared=True)
        record(gone, "a.png")
        record(alive, "b.png")
        gone.close()
        Manifest(tmp_path).merge()
        assert [json.loads(line)["output"] for line in (tmp_path / FILE_NAME).open()] == ["a.png"]
        assert len(list(tmp_path.glob(PART.format("*")))) == 1
        record(alive, "c.png")  # it goes on
        alive.close()
        Manifest(tmp_path).merge()
        assert outputs(str(tmp_path)) == ["a.png", "b.png", "c.png"]

    def test_a_result_that_two_processes_made_has_one_line(self, record: partial[None], tmp_path: Path) -> None:
        for content in (b"first", b"second"):
            manifest = Manifest(tmp_path, shared=True)
            record(manifest, "a.png", content)
            manifest.close()
            time.sleep(0.01)
        assert Manifest(tmp_path).up_to_date(tmp_path / "a.png", tmp_path / "in.png", "s")
        Manifest(tmp_path).merge()
        assert outputs(str(tmp_path)) == ["a.png"]
        assert Manifest(tmp_path).up_to_date(tmp_path / "a.png", tmp_path / "in.png", "s")

    def test_without_locks_parts_stay(
        self, record: partial[None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*arguments: object, **options: object) -> None:
            raise OSError(38, "Function not implemented")

        monkeypatch.setattr("medcli.batch.denoise.manifest.lock", refuse)
        manifest = Manifest(tmp_path, shared=True)
        record(manifest, "a.png")
        manifest.close()
        Manifest(tmp_path).merge()
        assert Manifest(tmp_path).made(tmp_path / "a.png")


def test_the_plan_of_a_long_list_takes_no_square_of_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = [0]
    equal = Path.__eq__

    def counted(self: Path, other: object) -> bool:
        compared[0] += 1
        return equal(self, other)

    monkeypatch.setattr(Path, "__eq__", counted)
    jobs = make_plan([], OutputNaming(tmp_path), listed=[Path(f"in/{number}.png") for number in range(1000)])
    assert len(jobs) == 1000
    assert compared[0] < 20_000
