"""Plans, memories, pipelines: what happens to many images, with fakes in the place of networks."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from medcli.batch.denoise.files import ImageFiles, Settings, Streams
from medcli.batch.denoise.manifest import FILE_NAME, Identity, Manifest, ManifestEntry
from medcli.batch.denoise.plan import STREAM, Job, OutputNaming, folds_case, make_plan
from medcli.batch.denoise.report import ImageStats, Outcome
from medcli.batch.denoise.restore import Denoise
from medcli.batch.denoise.run import Stages, run
from medcli.engine.alpha import Pixels, fill_hidden, restore_hidden
from medcli.engine.page import Progress, restore_page
from medcli.engine.slider_values import Sliders
from medcli.errors import InputError, ModelError, OutputError
from medcli.files import jsonl
from medcli.files.atomic import atomic_write, remove_stale
from medcli.images import DecodedImage, Page

FACTS = ImageStats(width=8, height=6, pages=1, pixels=48, tile=0, precision="fp32", runtime="torch", seconds=1.0)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def failing(code: int) -> Callable[..., None]:
    """A system call that ends with this error."""

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


def planned(root: Path, *inputs: str, recursive: bool = False, force: bool = False, **naming: Any) -> dict[str, str]:
    """Sources and targets of a plan, relative to `root`."""
    jobs = make_plan([root / name for name in inputs], OutputNaming(**naming), recursive=recursive, force=force)
    return {os.path.relpath(job.source, root): os.path.relpath(job.target, root) for job in jobs}


class TestPlan:
    def test_a_image_goes_beside_itself(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png")
        assert planned(tmp_path, "a.png") == {"a.png": "a.denoised.png"}
        assert planned(tmp_path, "a.png", suffix="-clean", format="tiff") == {"a.png": "a-clean.tif"}

    def test_output_names_a_file_or_a_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.JPG", "full.png/x")
        assert planned(tmp_path, "a.JPG", output=tmp_path / "b.png") == {"a.JPG": "b.png"}
        assert planned(tmp_path, "a.JPG", output=tmp_path / "out") == {"a.JPG": "out/a.JPG"}
        assert planned(tmp_path, "a.JPG", output=tmp_path / "full.png") == {"a.JPG": "full.png/a.JPG"}
        assert planned(tmp_path, "a.JPG", output=tmp_path / "out", format="jpeg") == {"a.JPG": "out/a.JPG"}

    def test_a_stream_goes_to_a_stream(self) -> None:
        assert make_plan([STREAM], OutputNaming()) == [Job(STREAM, STREAM)]
        assert make_plan([STREAM], OutputNaming(Path("x.png"))) == [Job(STREAM, Path("x.png"))]
        with pytest.raises(OutputError, match="no file name"):
            make_plan([STREAM], OutputNaming(Path("folder")))

    def test_a_folder_is_mirrored(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/b.png", "in/a.tif", "in/sub/a.tif", "in/notes.txt", "in/.hidden.png", "in/.git/x.png")
        flat = {"in/a.tif": "in.denoised/a.tif", "in/b.png": "in.denoised/b.png"}
        assert planned(tmp_path, "in") == flat
        deep = planned(tmp_path, "in", recursive=True)
        assert deep == flat | {"in/sub/a.tif": "in.denoised/sub/a.tif"}
        assert list(deep) == ["in/a.tif", "in/b.png", "in/sub/a.tif"]

    def test_earlier_results_are_passed_over(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "a.denoised.png", "in.denoised/b.png", "out/b.png", "out/mine.png")
        made = Identity.of(tmp_path / "out/b.png")
        Manifest(tmp_path / "out").record(tmp_path / "out/b.png", "s", made, made)
        touch(tmp_path, "a-clean.png")
        assert "a-clean.png" not in planned(tmp_path, ".", suffix="-clean", output=tmp_path / "new")
        (tmp_path / "a-clean.png").unlink()
        assert set(planned(tmp_path, ".", recursive=True, output=tmp_path / "new")) == {"a.png", "out/mine.png"}
        assert set(planned(tmp_path, "a.png", "a.denoised.png")) == {"a.png"}
        assert set(planned(tmp_path, "a.denoised.png")) == {"a.denoised.png"}  # named on the command line

    def test_a_image_whose_name_happens_to_end_in_the_suffix_is_none(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/cats.png", "in/dog.png", "b.denoised.png", "c.png")
        assert set(planned(tmp_path, "in", suffix="s")) == {"in/cats.png", "in/dog.png"}
        assert set(planned(tmp_path, "b.denoised.png", "c.png", suffix="-x")) == {"b.denoised.png", "c.png"}

    def test_a_folder_of_results_is_the_input_of_the_next_run(self, tmp_path: Path) -> None:
        touch(tmp_path, "out/a.png", "out/sub/b.png", "out/next/a.png")
        for root, name in (("out", "a.png"), ("out", "sub/b.png"), ("out/next", "a.png")):
            made = Identity.of(tmp_path / root / name)
            Manifest(tmp_path / root).record(tmp_path / root / name, "s", made, made)
        own = {"out/a.png": "out/next/a.png", "out/sub/b.png": "out/next/sub/b.png"}
        assert planned(tmp_path, "out", recursive=True, output=tmp_path / "out/next") == own
        with pytest.raises(InputError, match="no image"):
            planned(tmp_path, "out", output=tmp_path / "out", suffix="-x")

    def test_a_folder_that_cannot_be_read_is_not_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "in/a.png", "in/closed/b.png")
        scan = os.scandir

        def refuse(folder: str) -> Any:
            if str(folder).endswith("closed"):
                raise PermissionError(13, "Permission denied", folder)
            return scan(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        assert set(planned(tmp_path, "in")) == {"in/a.png"}
        readable, closed = make_plan([tmp_path / "in"], OutputNaming(), recursive=True)
        assert (readable.source.name, readable.error) == ("a.png", None)
        assert closed.error is not None
        assert closed.error.problem.endswith("closed cannot be read: Permission denied.")
        with pytest.raises(InputError, match="closed cannot be read: Permission denied"):
            planned(tmp_path, "in/closed")

    def test_a_file_named_twice_is_one_job(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/a.png")
        assert len(planned(tmp_path, "in/a.png", "in/a.png")) == 1
        assert len(planned(tmp_path, "in/a.png", "in", output=tmp_path / "out")) == 1

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_a_file_of_two_names_is_one_job_and_that_is_said(
        self, tmp_path: Path, link: Callable[[Path, Path], None], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "in/a.png")
        monkeypatch.chdir(tmp_path / "in")
        link(tmp_path / "in/a.png", tmp_path / "in/b.png")
        said: list[str] = []
        names = [Path("a.png"), Path("./a.png"), tmp_path / "in/a.png", Path("b.png")]
        assert [job.source for job in make_plan(names, OutputNaming(), say=said.append)] == [Path("a.png")]
        assert [line.split()[0] for line in said] == [str(tmp_path / "in/a.png"), "b.png"]
        assert len(planned(tmp_path, "in")) == 2, "a folder is mirrored, with its links"

    def test_a_slash_at_its_end_makes_a_folder(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png", "b.png")
        output = tmp_path / "new.png"
        assert planned(tmp_path, "a.png", output=output, folder=True) == {"a.png": "new.png/a.png"}
        assert len(planned(tmp_path, "a.png", "b.png", output=output, folder=True)) == 2

    def test_a_name_that_would_be_too_long_fails_alone(self, tmp_path: Path) -> None:
        long = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 122 + ".png"  # 248 bytes in UTF-8, 126 letters
        touch(tmp_path, "a.png", long)
        names = [tmp_path / "a.png", tmp_path / long]
        fits, too_long = make_plan(names, OutputNaming())
        assert fits.error is None
        assert isinstance(too_long.error, OutputError)
        assert "255" in too_long.error.problem
        assert "--suffix" in too_long.error.hint
        assert [job.error for job in make_plan(names, OutputNaming(suffix="-c"))] == [None, None]

    @pytest.mark.parametrize(
        ("inputs", "naming"),
        [
            (["a.png", "a.jpg"], {"format": "png"}),
            (["x/a.png", "y/a.png"], {"output": "out"}),
            (["x", "y"], {"output": "out"}),
        ],
    )
    def test_collisions_are_refused(self, tmp_path: Path, inputs: list[str], naming: dict[str, str]) -> None:
        touch(tmp_path, "a.png", "a.jpg", "x/a.png", "y/a.png")
        places: dict[str, Any] = {key: tmp_path / value if key == "output" else value for key, value in naming.items()}
        with pytest.raises(OutputError, match="would become"):
            planned(tmp_path, *inputs, **places)

    def test_letter_case_collides_only_where_the_file_system_folds_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "x/a.png", "y/A.png")
        assert folds_case(tmp_path) == (tmp_path / "X").exists()
        for folds in (False, True):
            monkeypatch.setattr("medcli.batch.denoise.plan.folds_case", lambda folder, folds=folds: folds)
            if folds:
                with pytest.raises(OutputError, match="would become"):
                    planned(tmp_path, "x", "y", output=tmp_path / "out")
            else:
                assert len(planned(tmp_path, "x", "y", output=tmp_path / "out")) == 2

    @pytest.mark.parametrize("link", [os.symlink, os.link, None])
    def test_an_input_is_replaced_only_by_force_and_by_name(
        self, tmp_path: Path, link: Callable[[Path, Path], None] | None
    ) -> None:
        touch(tmp_path, "a.png")
        other = tmp_path / ("b.png" if link else "a.png")
        if link:
            link(tmp_path / "a.png", other)
        with pytest.raises(OutputError, match="overwrite the input") as caught:
            planned(tmp_path, "a.png", output=other)
        assert "--force" in caught.value.hint
        assert planned(tmp_path, "a.png", output=other, force=True) == {"a.png": other.name}
        with pytest.raises(OutputError, match="overwrite the input"):  # a folder does not name the file
            planned(tmp_path, "a.png", output=tmp_path, suffix="", force=True)
        with pytest.raises(OutputError, match="overwrite the input"):
            planned(tmp_path, ".", output=tmp_path, force=True)

    @pytest.mark.parametrize("output", ["-", "one.png", "exists"])
    def test_many_images_need_a_folder(self, tmp_path: Path, output: str) -> None:
        touch(tmp_path, "in/a.png", "exists")
        with pytest.raises(OutputError, match="names one file"):
            planned(tmp_path, "in", output=STREAM if output == "-" else tmp_path / output)

    def test_formats_must_be_known_and_agree(self, tmp_path: Path) -> None:
        touch(tmp_path, "a.png")
        with pytest.raises(OutputError, match="does not say which format"):
            planned(tmp_path, "a.png", output=tmp_path / "b.xyz")
        with pytest.raises(OutputError, match="means png"):
            planned(tmp_path, "a.png", output=tmp_path / "b.png", format="tiff")

    def test_a_folder_without_images_is_an_error(self, tmp_path: Path) -> None:
        touch(tmp_path, "in/sub/a.png")
        with pytest.raises(InputError, match="no image") as caught:
            planned(tmp_path, "in")
        assert "--recursive" in caught.value.hint


class TestManifest:
    @pytest.fixture
    def manifest(self, tmp_path: Path) -> Manifest:
        touch(tmp_path, "in.png", "out/a.png")
        manifest = Manifest(tmp_path / "out")
        manifest.record(
            tmp_path / "out/a.png", "s", Identity.of(tmp_path / "in.png"), Identity.of(tmp_path / "out/a.png")
        )
        return manifest

    def current(self, tmp_path: Path, settings: str = "s") -> bool:
        return Manifest(tmp_path / "out").up_to_date(tmp_path / "out/a.png", tmp_path / "in.png", settings)

    def test_same_input_settings_and_result_are_up_to_date(self, manifest: Manifest, tmp_path: Path) -> None:
        assert self.current(tmp_path)
        assert not self.current(tmp_path, "other")

    def test_times_do_not_matter_but_content_does(self, manifest: Manifest, tmp_path: Path) -> None:
        for name in ("in.png", "out/a.png"):
            os.utime(tmp_path / name, (1, 1))
            assert self.current(tmp_path)
            content = (tmp_path / name).read_bytes()
            (tmp_path / name).write_bytes(content[::-1])
            assert not self.current(tmp_path)
            (tmp_path / name).write_bytes(content)
            assert self.current(tmp_path)

    @pytest.mark.skipif(os.name == "nt", reason="Windows keeps no time of changes")
    def test_an_edit_of_equal_size_and_time_is_noticed(self, manifest: Manifest, tmp_path: Path) -> None:
        source = tmp_path / "in.png"
        before = source.stat()
        while source.stat().st_ctime_ns == before.st_ctime_ns:  # the kernel's clock ticks every few milliseconds
            source.write_bytes(source.read_bytes()[::-1].upper())
            os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
        assert not self.current(tmp_path)

    def test_nothing_is_read_again_that_was_not_touched(
        self, manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with atomic_write(
            tmp_path / "out/b.png",
            lambda partial: manifest.record(
                tmp_path / "out/b.png", "s", Identity.of(tmp_path / "in.png"), Identity.of(partial)
            ),
        ) as file:
            file.write(b"b")
        monkeypatch.setattr("medcli.batch.denoise.manifest.blake2b_of", None)
        assert self.current(tmp_path)
        assert Manifest(tmp_path / "out").up_to_date(tmp_path / "out/b.png", tmp_path / "in.png", "s")

    def test_it_knows_its_own_results(self, manifest: Manifest, tmp_path: Path) -> None:
        result = tmp_path / "out/a.png"
        older = Identity.of(result)
        touch(tmp_path, "coming")
        manifest.record(result, "s2", older, Identity.of(tmp_path / "coming"))  # and then killed before the renaming
        assert Manifest(tmp_path / "out").made(result)
        result.write_bytes(b"edited by hand")
        assert not Manifest(tmp_path / "out").made(result)

    def test_a_torn_line_is_ignored_and_does_not_tear_the_next(self, manifest: Manifest, tmp_path: Path) -> None:
        whole = manifest.path.read_bytes()
        same = Identity.of(tmp_path / "out/a.png")
        for length in range(0, len(whole), 9):
            manifest.path.write_bytes(whole[:length])
            Manifest(tmp_path / "out").record(tmp_path / "out/b.png", "s", same, same)
            assert tmp_path / "out/b.png" in Manifest(tmp_path / "out").results()

    @pytest.mark.parametrize("line", [b"", b"[]", b"{}", b"\xff", b'{"output": 1', b'{"source": 1, "result": 2}'])
    def test_lines_of_other_programs_are_no_entries(self, line: bytes) -> None:
        assert not [entry for values in jsonl.parse(line) if (entry := ManifestEntry.parse(values))]


class TestLanding:
    def test_a_result_is_there_whole_or_not_at_all(self, tmp_path: Path) -> None:
        target = tmp_path / "new/folder/a.png"
        with atomic_write(target) as file:
            file.write(b"whole")
            assert not target.exists()
        assert target.read_bytes() == b"whole"
        with pytest.raises(ZeroDivisionError), atomic_write(target) as file:
            file.write(b"half" * (1 // 0))
        assert [path.name for path in target.parent.iterdir()] == ["a.png"]
        assert target.read_bytes() == b"whole"

    def test_what_cannot_be_replaced_is_refused(self, tmp_path: Path) -> None:
        touch(tmp_path, "file")
        with pytest.raises(OutputError, match="not a plain file"), atomic_write(tmp_path):
            pass
        with pytest.raises(OutputError, match="cannot be written"), atomic_write(tmp_path / "file/a.png"):
            pass

    @pytest.mark.parametrize("code", [errno.EPERM, errno.EINVAL, errno.ENOTSUP])
    @pytest.mark.parametrize("refused", ["fsync", "chmod", "flock"])
    def test_what_a_share_does_not_offer_is_noted(
        self, tmp_path: Path, refused: str, code: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        touch(tmp_path, "a.png")
        module = pytest.importorskip("fcntl") if refused == "flock" else os
        monkeypatch.setattr(module, refused, failing(code))
        notes: list[str] = []
        with atomic_write(tmp_path / "a.png", remark=notes.append) as file:
            file.write(b"new")
        assert (tmp_path / "a.png").read_bytes() == b"new"
        assert len(notes) == 1

    @pytest.mark.parametrize(
        ("code", "hint"), [(errno.ENOSPC, "room"), (errno.EACCES, "permissions"), (errno.EROFS, "read-only")]
    )
    def test_the_hint_fits_the_error(
        self, tmp_path: Path, code: int, hint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Path, "replace", failing(code))
        with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "a.png") as file:
            file.write(b"new")
        assert hint in caught.value.hint
        assert not list(tmp_path.iterdir())

    def test_a_disk_that_fails_to_flush_is_no_share_that_cannot(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OutputError, match="cannot be written"), atomic_write(tmp_path / "a.png"):
            pass

    def test_a_link_keeps_pointing(self, tmp_path: Path) -> None:
        touch(tmp_path, "real.png")
        (tmp_path / "link.png").symlink_to(tmp_path / "real.png")
        with atomic_write(tmp_path / "link.png") as file:
            file.write(b"new")
        assert (tmp_path / "link.png").is_symlink()
        assert (tmp_path / "real.png").read_bytes() == b"new"

    @pytest.mark.skipif(os.name == "nt", reason="Windows refuses to delete open files by itself")
    def test_only_what_dead_runs_left_is_swept(self, tmp_path: Path) -> None:
        touch(tmp_path, ".medcli-0123456789ab.part", "mine.part", ".medcli.jsonl")
        with atomic_write(tmp_path / "a.png") as file:
            remove_stale([tmp_path])
            file.write(b"alive")
        assert {path.name for path in tmp_path.iterdir()} == {"mine.part", ".medcli.jsonl", "a.png"}


def small(value: int = 0, size: tuple[int, int] = (6, 8)) -> DecodedImage:
    return DecodedImage([Page(np.full(size, value, np.uint8), None)], "png")


def numbered(count: int) -> list[Job]:
    return [Job(Path(f"{number}.png"), Path(f"out/{number}.png")) for number in range(count)]


def stages(
    read: Callable[[Job], DecodedImage] = lambda job: small(),
    restore_one: Callable[[Job, DecodedImage], ImageStats] = lambda job, image: FACTS,
    write: Callable[[Job, DecodedImage], None] = lambda job, image: None,
) -> Stages:
    return Stages(read, lambda: restore_one, write)


class TestPipeline:
    def test_outcomes_come_in_order(self) -> None:
        def late(job: Job) -> DecodedImage:
            time.sleep(random.random() / 100)
            return small()

        jobs = numbered(12)
        assert [outcome.job for outcome in run(jobs, stages(late))] == jobs
        assert list(run([], stages())) == []

    @pytest.mark.parametrize("stage", ["read", "restore_one", "write"])
    @pytest.mark.parametrize(
        "error",
        [
            InputError("broken"),
            ModelError("misfit"),
            PermissionError(13, "denied"),
            MemoryError(),
            RuntimeError("could not create a primitive"),
            ImportError("codec.so: failed to map segment from shared object"),
        ],
    )
    def test_a_bad_file_does_not_stop_the_others(self, stage: str, error: Exception) -> None:
        def faulty(job: Job, *rest: object) -> Any:
            if job.source.stem == "2":
                raise error
            return FACTS if stage == "restore_one" else small()

        faults: dict[str, Any] = {stage: faulty}
        outcomes = list(run(numbered(5), stages(**faults)))
        assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done", "done"]
        assert outcomes[2].error is not None
        assert outcomes[2].error.problem

    @pytest.mark.parametrize("error", [ZeroDivisionError(), RuntimeError("shapes do not match")])
    def test_a_mistake_of_ours_is_not_swallowed(self, error: Exception) -> None:
        def mistaken(job: Job, image: DecodedImage) -> ImageStats:
            raise error

        with pytest.raises(type(error)):
            list(run(numbered(2), stages(restore_one=mistaken)))

    def test_no_model_is_loaded_for_nothing_and_reading_does_not_wait_for_it(self) -> None:
        reading = threading.Event()

        def read(job: Job) -> DecodedImage:
            reading.set()
            return small()

        def prepare() -> Callable[[Job, DecodedImage], ImageStats]:
            assert reading.wait(5)
            return lambda job, image: FACTS

        assert len(list(run(numbered(1), Stages(read, prepare, lambda job, image: None)))) == 1

        def never() -> Callable[[Job, DecodedImage], ImageStats]:
            raise AssertionError

        assert list(run([], Stages(read, never, lambda job, image: None))) == []

    def test_reading_and_writing_happen_beside_the_network(self) -> None:
        read, restored = threading.Event(), threading.Event()

        def reading(job: Job) -> DecodedImage:
            if job.source.stem == "1":
                read.set()
            return small()

        def network(job: Job, image: DecodedImage) -> ImageStats:
            if job.source.stem == "0":
                assert read.wait(5), "the second image is read while the first is in the network"
            if job.source.stem == "1":
                restored.set()
            return FACTS

        def writing(job: Job, image: DecodedImage) -> None:
            if job.source.stem == "0":
                assert restored.wait(5), "the second image is in the network while the first is written"

        assert len(list(run(numbered(3), stages(reading, network, writing)))) == 3

    @pytest.mark.parametrize(("budget", "most"), [(1, 1), (1 << 20, 5)])
    def test_images_in_memory_are_bounded(self, budget: int, most: int) -> None:
        lock, held, peak = threading.Lock(), 0, 0

        def read(job: Job) -> DecodedImage:
            nonlocal held, peak
            with lock:
                held += 1
                peak = max(peak, held)
            return small()

        def write(job: Job, image: DecodedImage) -> None:
            nonlocal held
            time.sleep(0.005)
            with lock:
                held -= 1

        list(run(numbered(12), stages(read=read, write=write), budget=budget))
        assert held == 0
        assert peak <= most

    def test_a_image_counts_as_large_as_it_has_become(self) -> None:
        writing, peak = 0, 0

        def grow(job: Job, image: DecodedImage) -> ImageStats:
            nonlocal writing, peak
            writing, peak = writing + 1, max(peak, writing + 1)
            image.pages[0].pixels = np.zeros((64, 64), np.uint8)
            return FACTS

        def write(job: Job, image: DecodedImage) -> None:
            nonlocal writing
            time.sleep(0.01)
            writing -= 1

        list(run(numbered(6), stages(restore_one=grow, write=write), budget=2000))
        assert peak == 1

    def test_stopping_lets_a_write_finish(self) -> None:
        written: list[Job] = []

        def write(job: Job, image: DecodedImage) -> None:
            time.sleep(0.02)
            written.append(job)

        def interrupted(job: Job, image: DecodedImage) -> ImageStats:
            if job.source.stem == "1":
                raise KeyboardInterrupt
            return FACTS

        jobs = numbered(5)
        with pytest.raises(KeyboardInterrupt):
            list(run(jobs, stages(restore_one=interrupted, write=write)))
        assert written == jobs[:1]


class TestAlpha:
    def test_hidden_pixels_take_the_colour_around_them(self) -> None:
        pixels = np.full((40, 50, 3), (200, 100, 50), np.uint8)
        alpha = np.full((40, 50), 255, np.uint8)
        pixels[5:35, 10:45], alpha[5:35, 10:45] = 0, 0
        inpainted = fill_hidden(pixels, alpha)
        assert np.abs(inpainted.astype(int) - (200, 100, 50)).max() <= 1

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("shape", [(1, 1), (7, 3), (19, 70), (33, 8, 3)])
    def test_visible_pixels_stay_and_nothing_leaks(self, shape: tuple[int, ...], dtype: type) -> None:
        generator = np.random.default_rng(0)
        pixels: Pixels = generator.integers(50, 60, shape).astype(dtype)
        alpha: Pixels = generator.integers(0, 2, shape[:2]).astype(dtype)
        alpha[0, 0] = 1
        poisoned = np.where(alpha[..., None] if len(shape) == 3 else alpha, pixels, dtype(255))
        inpainted = fill_hidden(poisoned, alpha)
        assert inpainted.dtype == dtype
        assert np.array_equal(inpainted[alpha > 0], pixels[alpha > 0])
        assert inpainted.max() < 60
        assert np.array_equal(restore_hidden(inpainted, poisoned, alpha), poisoned)

    def test_nothing_hidden_and_all_hidden_change_nothing(self) -> None:
        pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
        for value in (0, 9):
            assert fill_hidden(pixels, np.full((6, 8), value, np.uint8)) is pixels

    def test_a_blur_sees_no_hidden_colour(self) -> None:
        def blur(image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
            return cv2.blur(image, (5, 5))

        pixels: Pixels = np.full((32, 32, 3), 180, np.uint8)
        alpha: Pixels = np.full((32, 32), 255, np.uint8)
        pixels[8:20, 8:20], alpha[8:20, 8:20] = 7, 0
        restored = restore_page(Page(pixels, alpha), blur)
        assert np.array_equal(restored.pixels, pixels)
        assert restored.alpha is alpha


def test_every_page_is_restored_and_progress_counts_them_all() -> None:
    def negative(image: Pixels, /, *, strength: float, progress: Progress | None) -> Pixels:
        if progress:
            progress(1, 2)
            progress(2, 2)
        return 255 - image

    image = DecodedImage([Page(np.full((4, 4), value, np.uint8)) for value in (1, 2, 3)], "tiff")
    seen: list[tuple[int, int]] = []
    Denoise()(Job(Path("a"), Path("b")), image, negative, lambda done, total: seen.append((done, total)))
    assert [int(page.pixels[0, 0]) for page in image.pages] == [254, 253, 252]
    assert seen == [(done, 6) for done in range(1, 7)]


class TestFiles:
    """Runs over a folder with real files and a network that makes negatives."""

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        for number in range(4):
            write_png(tmp_path / f"in/{number}.png", number)
        return tmp_path

    def denoise(self, root: Path, settings: Settings | None = None) -> list[Outcome]:
        jobs = make_plan([root / "in"], OutputNaming(root / "out"))
        files = ImageFiles(settings or Settings("w"), Streams(sys.stdin.buffer, sys.stdout.buffer))
        with_parameters = [outcome for job in jobs if (outcome := files.existing_outcome(job))]
        ended = {outcome.job for outcome in with_parameters}
        todo = [job for job in jobs if job not in ended]
        return with_parameters + list(run(todo, stages(files.read, make_negative, files.write)))

    def states(self, root: Path, settings: Settings | None = None) -> dict[str, str]:
        return {outcome.job.source.stem: outcome.status for outcome in self.denoise(root, settings)}

    def test_only_what_changed_is_done_again(self, folder: Path) -> None:
        assert set(self.states(folder).values()) == {"done"}
        assert set(self.states(folder).values()) == {"skipped"}
        write_png(folder / "in/2.png", 77)
        (folder / "out/1.png").unlink()
        assert self.states(folder) == {"0": "skipped", "1": "done", "2": "done", "3": "skipped"}
        assert set(self.states(folder, Settings("w", sliders=Sliders(strength=0.5))).values()) == {"done"}
        assert set(self.states(folder, Settings("w2")).values()) == {"done"}

    def test_what_the_format_cannot_hold_is_refused_before_the_work(self, folder: Path) -> None:
        requested: list[Path] = []

        def note(job: Job, image: DecodedImage) -> ImageStats:
            requested.append(job.source)
            return FACTS

        (folder / "in/1.png").write_bytes(cv2.imencode(".png", np.full((8, 8, 4), 9, np.uint8))[1].tobytes())
        jobs = make_plan([folder / "in"], OutputNaming(folder / "out", format="jpeg"))
        files = ImageFiles(Settings("w", format="jpeg"), Streams(sys.stdin.buffer, sys.stdout.buffer))
        states = {
            outcome.job.source.stem: outcome.status for outcome in run(jobs, stages(files.read, note, files.write))
        }
        assert states == {"0": "done", "1": "failed", "2": "done", "3": "done"}
        assert folder / "in/1.png" not in requested

    def test_the_files_of_others_are_not_touched(self, folder: Path) -> None:
        write_png(folder / "out/3.png", 200)
        before = (folder / "out/3.png").read_bytes()
        assert self.states(folder) == {"3": "failed", "0": "done", "1": "done", "2": "done"}
        assert (folder / "out/3.png").read_bytes() == before
        write_png(folder / "out/0.png", 99)  # a result that somebody edited
        assert self.states(folder)["0"] == "failed"


def write_png(path: Path, seed: int) -> None:
    path.parent.mkdir(exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 32, 3), np.uint8)
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


def make_negative(job: Job, image: DecodedImage) -> ImageStats:
    image.pages[0].pixels = 255 - image.pages[0].pixels
    return FACTS


WORKER = """
import sys, time
from pathlib import Path
from medcli.batch.denoise.files import ImageFiles, Settings, Streams
from medcli.files import jsonl
from medcli.files.atomic import remove_stale
from medcli.batch.denoise.plan import OutputNaming, make_plan
from medcli.batch.denoise.report import ImageStats
from medcli.batch.denoise.run import Stages, run

def negative(job, image):
    time.sleep(0.01)
    image.pages[0].pixels = 255 - image.pages[0].pixels
    return ImageStats(width=1, height=1, pages=1, pixels=1, tile=0, precision="fp32", runtime="torch", seconds=1.0)

jobs = make_plan([Path(sys.argv[1])], OutputNaming(Path(sys.argv[2])))
files = ImageFiles(Settings("w"), Streams(sys.stdin.buffer, sys.stdout.buffer))
remove_stale(job.target.parent for job in jobs)
outcomes = [files.existing_outcome(job) for job in jobs]
assert all(outcome is None or outcome.status == "skipped" for outcome in outcomes), outcomes
todo = [job for job, outcome in zip(jobs, outcomes) if outcome is None]
print("ready", flush=True)
for outcome in run(todo, Stages(files.read, lambda: negative, files.write)):
    assert outcome.status == "done", outcome.error
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL")
def test_a_run_killed_at_any_moment_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    for number in range(60):
        write_png(tmp_path / f"in/{number}.png", number)

    def start(out: str) -> subprocess.Popen[str]:
        arguments = [sys.executable, "-c", WORKER, str(tmp_path / "in"), str(tmp_path / out)]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)

    def content(out: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / out).glob("[!.]*")}

    assert start("whole").wait() == 0
    moments = random.Random(1)
    for _ in range(6):
        process = start("killed")
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(moments.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        whole = content("whole")
        assert content("killed").items() <= whole.items()  # no half file, ever
    assert len(content("killed")) < 60, "the test is about runs that were not finished"
    assert start("killed").wait() == 0
    assert content("killed") == content("whole")
    assert {path.name for path in (tmp_path / "killed").glob(".*")} == {FILE_NAME}
