"""`med denoise` as a user meets it: files, exit codes and whole lines, with a tiny network of random weights."""

from __future__ import annotations

import io
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np
import pytest
import tifffile
import torch

import medcli
import medcli.api
from medcli.archs.dncnn import DnCNN
from medcli.batch.denoise import files
from medcli.cli import COMMANDS, main, progress
from medcli.cli.progress import ProgressDisplay, terminal_can_animate
from medcli.errors import InputError, ModelError
from medcli.images import read
from medcli.zoo.weights import Card, save

LINE = re.compile(
    r"in/0\.png -> in/0\.denoised\.png: .*tiny\.safetensors, (torch|onnx) on cpu, (fp32|bf16), untiled, 40x30, "
    r"\d+\.\d\d s, \d+\.\d\d MP/s"
)
KEYS = ["event", "status", "input", "output", "model", "device", "runtime", "precision", "tile", "width", "height"]
KEYS += ["pages"]
KEYS += ["range", "seconds", "megapixels_per_second", "removed", "notes", "error"]


@dataclass
class Ran:
    code: int
    out: bytes
    err: str


Med = Callable[..., Ran]


def events(ran: Ran) -> list[dict[str, Any]]:
    """The objects of --json on images; of a run over several, there is one before them and one after."""
    found = [json.loads(line) for line in ran.out.splitlines()]
    if len(found) == 1:  # of a single image
        return found
    first, *images, last = found
    assert (first["event"], last["event"]) == ("start", "end")
    return images


def save_tiny(path: Path, channels: int = 3, noises: tuple[str, ...] = (), strategy: str = "plain") -> Path:
    torch.manual_seed(0)
    network = DnCNN(channels=channels, width=4, depth=3, batch_norm=False)
    own = {"channels": channels, "noises": list(noises), "strategy": strategy}
    save(path, network, Card(id="tiny", architecture="dncnn", config=network.config, **own))
    return path


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "tiny.safetensors")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, with four images in `in` and one more in `in/sub`."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.startswith("MED_"):
            monkeypatch.delenv(name)
    for seed, name in enumerate(("0.png", "1.png", "2.jpg", "3.bmp", "sub/4.png")):
        write(tmp_path / "in" / name, noise(seed))
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield tmp_path
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def med(home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]) -> Med:
    """Runs `med denoise` in this process; the model is the tiny one unless --model is given."""

    def call(*arguments: str | Path, stdin: bytes = b"") -> Ran:
        words = [str(argument) for argument in arguments]
        model = [] if "--model" in words or words[0] != "denoise" else ["--model", str(tiny)]
        monkeypatch.setattr(sys, "argv", ["med", *words, *model])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsysbinary.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, out, err.decode())

    return call


def noise(seed: int, shape: tuple[int, ...] = (30, 40, 3), dtype: type = np.uint8) -> np.ndarray:
    values = np.random.default_rng(seed).random(shape)
    return values.astype(np.float32) if dtype is np.float32 else (values * np.iinfo(dtype).max).astype(dtype)


def write(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def pixels_of(source: Path | bytes) -> np.ndarray:
    return read(source).pages[0].pixels


def left_behind(root: Path) -> list[Path]:
    return [path for path in root.rglob(".*") if path.name.endswith(".part")]


def never(*arguments: object, **options: object) -> NoReturn:
    raise AssertionError("the model must not be loaded")


class TestOneImage:
    def test_the_result_goes_beside_it_with_one_line(self, med: Med, home: Path, tiny: Path) -> None:
        ran = med("denoise", "in/0.png")
        assert (ran.code, ran.out) == (0, b"")
        assert LINE.fullmatch(ran.err.strip()), ran.err
        expected = medcli.denoise(home / "in/0.png", tiny)
        assert np.array_equal(pixels_of(home / "in/0.denoised.png"), expected)
        assert not np.array_equal(expected, pixels_of(home / "in/0.png"))
        assert not (home / "in/.medcli.jsonl").exists()

    def test_an_existing_result_needs_force(self, med: Med, home: Path) -> None:
        (home / "in/0.denoised.png").write_bytes(b"mine")
        ran = med("denoise", "in/0.png")
        assert ran.code == 1
        assert ran.err.splitlines() == [
            "error: in/0.denoised.png exists already.",
            "  Add --force to overwrite it, or choose another -o.",
        ]
        assert (home / "in/0.denoised.png").read_bytes() == b"mine"
        assert med("denoise", "in/0.png", "--force").code == 0

    def test_an_input_needs_force_and_its_name(self, med: Med, home: Path) -> None:
        before = (home / "in/0.png").read_bytes()
        assert med("denoise", "in/0.png", "-o", "in/0.png").code == 1
        assert med("denoise", "in/0.png", "-o", "in", "--force").code == 1
        assert (home / "in/0.png").read_bytes() == before
        assert med("denoise", "in/0.png", "-o", "in/0.png", "--force").code == 0
        assert (home / "in/0.png").read_bytes() != before

    @pytest.mark.parametrize(
        ("name", "shape", "dtype"),
        [
            ("gray.png", (7, 3), np.uint8),
            ("deep.png", (30, 40, 3), np.uint16),
            ("alpha.png", (30, 40, 4), np.uint16),
            ("float.tif", (1, 1), np.float32),
            ("wide.tif", (5, 900, 3), np.uint16),
        ],
    )
    def test_depth_and_shape_stay_and_strength_0_changes_nothing(
        self, med: Med, home: Path, name: str, shape: tuple[int, ...], dtype: type
    ) -> None:
        source = write(home / name, noise(1, shape, dtype))
        before = read(source).pages[0]
        for strength in ("0", "1"):
            target = home / f"out{strength}{source.suffix}"
            assert med("denoise", source, "-o", target, "--strength", strength).code == 0
            after = read(target).pages[0]
            assert after.pixels.dtype == dtype
            assert after.pixels.shape == before.pixels.shape
            assert np.array_equal(after.pixels, before.pixels) == (strength == "0")
            assert (after.alpha is None) == (before.alpha is None)
            assert after.alpha is None or np.array_equal(after.alpha, np.asarray(before.alpha))

    def test_every_page_is_denoised(self, med: Med, home: Path) -> None:
        stack = noise(1, (3, 20, 24), np.uint16)
        tifffile.imwrite(home / "stack.tif", stack, photometric="minisblack")
        ran = med("denoise", "stack.tif")
        assert ran.code == 0
        assert "24x20, 3 pages" in ran.err
        result = tifffile.imread(home / "stack.denoised.tif")
        assert result.shape == stack.shape
        assert all((before != after).any() for before, after in zip(stack, result, strict=True))

    def test_colour_under_alpha_0_stays_and_does_not_leak(self, med: Med, home: Path) -> None:
        results = []
        for hidden in (0, 255):
            image = np.full((30, 40, 4), 128, np.uint8)
            image[8:20, 8:20] = (hidden, hidden, hidden, 0)
            write(home / f"{hidden}.png", image)
            assert med("denoise", f"{hidden}.png").code == 0
            page = read(home / f"{hidden}.denoised.png").pages[0]
            assert (page.pixels[8:20, 8:20] == hidden).all()
            results.append(page.pixels[np.asarray(page.alpha) == 255])
        assert np.array_equal(*results)

    def test_tiles_in_force_are_reported_and_give_the_same_image(self, med: Med, home: Path) -> None:
        write(home / "large.png", noise(1, (100, 150, 3)))
        assert "tile 64" in med("denoise", "large.png", "-o", "a.png", "--tile", "64", "--precision", "fp32").err
        assert "untiled" in med("denoise", "large.png", "-o", "b.png", "--tile", "0", "--precision", "fp32").err
        difference = pixels_of(home / "a.png").astype(int) - pixels_of(home / "b.png")
        assert np.abs(difference).max() <= 1

    def test_conversions_are_reported(self, med: Med, home: Path) -> None:
        ran = med("denoise", write(home / "deep.png", noise(1, dtype=np.uint16)), "-o", "a.jpg")
        assert ran.code == 0
        assert ran.err.splitlines()[1].startswith("  note: ")

    def test_the_environment_sets_options(self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MED_DENOISE_STRENGTH", "0")
        assert med("denoise", "in/0.png").code == 0
        assert np.array_equal(pixels_of(home / "in/0.denoised.png"), pixels_of(home / "in/0.png"))

    def test_an_idle_option_of_the_environment_is_passed_over(
        self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MED_DENOISE_SUFFIX", "-x")
        assert med("denoise", "in/0.png", "-o", "a.png").code == 0
        assert med("denoise", "in/0.png").code == 0
        assert (home / "a.png").exists()
        assert (home / "in/0-x.png").exists()

    def test_a_model_that_makes_noise_says_so(self, med: Med) -> None:
        ran = med("denoise", "in/0.png", "--model", "ludvae-camera")
        assert ran.code == 0
        assert ran.err.startswith("ludvae-camera generates noise")

    def test_times_are_kept_on_request(self, med: Med, home: Path) -> None:
        os.utime(home / "in/0.png", ns=(1_600_000_000_000_000_000, 1_500_000_000_123_456_000))
        med("denoise", "in/0.png", "-o", "new.png")
        med("denoise", "in/0.png", "-o", "old.png", "--keep-time")
        med("denoise", "in", "-o", "out", "--keep-time")
        wanted = (home / "in/0.png").stat().st_mtime_ns
        assert (home / "new.png").stat().st_mtime_ns > wanted
        assert (home / "old.png").stat().st_mtime_ns == (home / "out/0.png").stat().st_mtime_ns == wanted
        assert "4 up to date" in med("denoise", "in", "-o", "out", "--keep-time").err

    def test_home_is_opened_up_where_no_shell_did(
        self, med: Med, home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(home / "in"))
        monkeypatch.setenv("USERPROFILE", str(home / "in"))
        shutil.copy(tiny, home / "in/own.safetensors")
        assert med("denoise", "~/0.png", "--output=~/made.png", "--model", "~/own.safetensors").code == 0
        monkeypatch.setenv("MED_DENOISE_OUTPUT", "~/set.png")
        assert med("denoise", "in/1.png").code == 0
        assert (home / "in/made.png").exists()
        assert (home / "in/set.png").exists()
        assert not (home / "~").exists()
        write(home / "~.png", noise(0))
        assert med("denoise", "~.png", "-o", "~nobody-has-this.png").code == 0
        assert (home / "~nobody-has-this.png").exists()

    def test_a_new_folder_and_a_format_by_its_suffix(self, med: Med, home: Path) -> None:
        assert med("denoise", "in/0.png", "-o", "new.d/", "--format", "jpg").code == 0
        assert read(home / "new.d/0.jpg").format == "jpeg"
        assert med("denoise", "in/0.png", "-o", "new/", "--format", "TIF").code == 0
        assert read(home / "new/0.tif").format == "tiff"

    def test_a_long_name_gets_a_hint(self, med: Med, home: Path) -> None:
        write(home / ("x" * 245 + ".png"), noise(0))
        ran = med("denoise", "x" * 245 + ".png")
        assert ran.code == 1
        assert "258 bytes" in ran.err
        assert "--suffix" in ran.err
        ran = med("denoise", "in/0.png", "-o", "y" * 252 + ".png")
        assert ran.code == 1
        assert "256 bytes" in ran.err

    @pytest.mark.skipif(not Path("/dev/stdout").exists(), reason="there is no /dev/stdout")
    def test_the_device_of_standard_output_is_standard_output(self, med: Med, home: Path) -> None:
        named, dash = (med("denoise", "in/0.png", "-o", place).out for place in ("/dev/stdout", "-"))
        assert named == dash
        assert pixels_of(named).shape == (30, 40, 3)
        assert med("denoise", "in/0.png", "-o", "/dev/stdout", "--json").code == 2
        content = (home / "in/0.png").read_bytes()
        assert med("denoise", "/dev/stdin", stdin=content).out == med("denoise", "-", stdin=content).out

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
    def test_a_named_pipe_gets_the_whole_image(self, med: Med, home: Path) -> None:
        os.mkfifo(home / "pipe")
        with ThreadPoolExecutor(1) as pool:
            content = pool.submit((home / "pipe").read_bytes)
            assert med("denoise", "in/0.png", "-o", "pipe").code == 0
            assert pixels_of(content.result(timeout=30)).shape == (30, 40, 3)

    def test_quiet_is_quiet(self, med: Med) -> None:
        ran = med("denoise", "in/0.png", "--quiet")
        assert (ran.code, ran.out, ran.err) == (0, b"", "")


class TestStreams:
    def test_a_image_comes_through_a_pipe(self, med: Med, home: Path) -> None:
        ran = med("denoise", "-", stdin=(home / "in/0.png").read_bytes())
        assert ran.code == 0
        assert med("denoise", "in/0.png").code == 0
        assert ran.out == (home / "in/0.denoised.png").read_bytes()
        assert ran.err.startswith("stdin -> stdout: ")

    def test_files_and_streams_mix(self, med: Med, home: Path) -> None:
        content = (home / "in/0.png").read_bytes()
        assert med("denoise", "-", "-o", "a.tif", stdin=content).code == 0
        ran = med("denoise", "in/0.png", "-o", "-", "--format", "tiff")
        assert np.array_equal(pixels_of(ran.out), pixels_of(home / "a.tif"))

    @pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
    def test_a_bad_stream_writes_nothing(self, med: Med, content: bytes) -> None:
        ran = med("denoise", "-", stdin=content)
        assert (ran.code, ran.out) == (1, b"")
        assert ran.err.startswith("error: Standard input ")

    @pytest.mark.parametrize("arguments", [["-", "--json"], ["in/0.png", "-o", "-", "--json"], ["-", "in/0.png"]])
    def test_two_things_do_not_mix_in_one_stream(self, med: Med, arguments: list[str]) -> None:
        assert med("denoise", *arguments).code == 2

    def test_no_bytes_into_a_terminal(self, med: Med, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        ran = med("denoise", "in/0.png", "-o", "-")
        assert (ran.code, ran.out) == (2, b"")
        assert "terminal" in ran.err

    def test_a_pipe_is_waited_for_where_a_signal_is_handled(
        self, home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waiting: list[threading.Thread] = []

        class Pipe(io.BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                waiting.append(threading.current_thread())
                return super().read(size)

        monkeypatch.setattr(sys, "argv", ["med", "denoise", "-", "-o", "out.png", "--model", str(tiny)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(Pipe((home / "in/0.png").read_bytes())))
        with pytest.raises(SystemExit):
            main()
        assert waiting == [threading.main_thread()]
        assert (home / "out.png").exists()

    def test_a_process_without_standard_streams(self, home: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("stdin", "stdout", "stderr"):
            monkeypatch.setattr(sys, name, None)
        for words, code in (["in/0.png"], 0), (["in/0.png", "-o", "-"], 2), (["-", "-o", "a.png"], 1):
            monkeypatch.setattr(sys, "argv", ["med", "denoise", *words, "--model", str(tiny)])
            with pytest.raises(SystemExit) as ended:
                main()
            assert ended.value.code == code
        assert (home / "in/0.denoised.png").exists()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is nothing that is always full")
    @pytest.mark.parametrize("words", [["-o", "-"], ["-o", "a.png", "--json"]])
    def test_a_full_stream_is_named(self, home: Path, tiny: Path, words: list[str]) -> None:
        command = [sys.executable, "-m", "medcli", "denoise", "in/0.png", "-q", *words, "--model", str(tiny)]
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment())
        assert done.returncode == 1
        assert done.stderr.rstrip() in (
            "error: standard output: No space left on device.",
            "error: No space left on device.",
        )

    @pytest.mark.skipif(os.name == "nt", reason="pipes break differently there")
    def test_a_reader_that_goes_away_is_no_traceback(self, home: Path, tiny: Path) -> None:
        write(home / "large.bmp", noise(0, (300, 300, 3)))
        reader, writer = os.pipe()
        os.close(reader)
        command = [sys.executable, "-m", "medcli", "denoise", "large.bmp", "-o", "-", "-q", "--model", str(tiny)]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment())
        os.close(writer)
        assert done.returncode == 1
        assert done.stderr == ""


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(medcli.__file__).parent.parent), "OMP_NUM_THREADS": "1"}


class TestManyImages:
    def test_a_folder_is_mirrored_and_skipped_the_second_time(
        self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ran = med("denoise", "in", "-r")
        assert ran.code == 0
        assert re.match(r"5 done in \d+\.\d s", ran.err.splitlines()[-1])
        results = sorted(path.relative_to(home / "in.denoised") for path in (home / "in.denoised").rglob("*.*"))
        assert [str(path) for path in results] == [".medcli.jsonl", "0.png", "1.png", "2.jpg", "3.bmp", "sub/4.png"]
        monkeypatch.setattr(medcli.api, "load_model", never)
        ran = med("denoise", "in", "-r")
        assert ran.code == 0
        assert re.match(r"5 up to date in", ran.err.splitlines()[-1])

    def test_other_settings_make_them_again(self, med: Med, home: Path) -> None:
        assert med("denoise", "in").code == 0
        before = (home / "in.denoised/0.png").read_bytes()
        ran = med("denoise", "in", "--strength", "0.5")
        assert ran.err.splitlines()[-1].startswith("4 done")
        assert (home / "in.denoised/0.png").read_bytes() != before

    def test_a_bad_file_does_not_stop_the_others(self, med: Med, home: Path) -> None:
        (home / "in/1.png").write_bytes((home / "in/1.png").read_bytes()[:99])
        (home / "in/empty.png").touch()
        ran = med("denoise", "in", "-o", "out", "--json")
        assert ran.code == 3
        objects = events(ran)
        assert all(list(each) == KEYS for each in objects)
        assert [each["status"] for each in objects] == ["done", "failed", "done", "done", "failed"]
        assert objects[0] | {"seconds": 0, "megapixels_per_second": 0, "precision": "", "runtime": "", "model": ""} == {
            "event": "image",
            "status": "done",
            "input": "in/0.png",
            "output": "out/0.png",
            "model": "",
            "device": "cpu",
            "runtime": "",
            "precision": "",
            "tile": 0,
            "width": 40,
            "height": 30,
            "pages": 1,
            "range": [0, 255],
            "seconds": 0,
            "megapixels_per_second": 0,
            "removed": None,
            "notes": [],
            "error": None,
        }
        assert "error: 2 of 5 images failed:" in ran.err
        assert ran.err.splitlines()[-1].startswith("  in/empty.png is empty")
        assert sorted(path.name for path in (home / "out").glob("*.*")) == [".medcli.jsonl", "0.png", "2.jpg", "3.bmp"]

    def test_if_all_fail_nothing_was_done(self, med: Med, home: Path) -> None:
        ran = med("denoise", "in/missing.png", "in/lost.png")
        assert ran.code == 1
        assert "There is no file in/missing.png." in ran.err

    def test_files_of_a_glob_go_beside_their_inputs_and_resume(self, med: Med, home: Path) -> None:
        first = sorted(str(path.relative_to(home)) for path in (home / "in").glob("*.png"))
        assert med("denoise", *first).code == 0
        again = sorted(str(path.relative_to(home)) for path in (home / "in").glob("*.png"))
        assert len(again) == 4
        assert med("denoise", *again).err.splitlines()[-1].startswith("2 up to date")

    def test_a_subfolder_that_fails_does_not_stop_the_others(
        self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scan = os.scandir

        def refuse(folder: str | Path) -> Iterator[os.DirEntry[str]]:
            if Path(folder).name == "sub":
                raise PermissionError(13, "Permission denied", str(folder))
            return scan(folder)

        monkeypatch.setattr(os, "scandir", refuse)
        for words in ([], ["--force"]):
            ran = med("denoise", "in", "-r", "-o", "out", *words)
            assert ran.code == 3
            assert ran.err.count("error: The folder in/sub cannot be read: Permission denied.") == 1
            assert {path.name for path in (home / "out").glob("*.*")} >= {"0.png", "1.png", "2.jpg", "3.bmp"}

    def test_a_dry_run_writes_nothing(self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(medcli.api, "load_model", never)
        ran = med("denoise", "in", "--dry-run", "--json")
        assert ran.code == 0
        assert [each["status"] for each in events(ran)] == ["planned"] * 4
        assert not (home / "in.denoised").exists()

    def test_a_dry_run_misses_what_is_not_there(self, med: Med) -> None:
        for names, code in ((["in/lost.png"], 1), (["in/0.png", "in/lost.png"], 3)):
            ran = med("denoise", *names, "--dry-run", "--json")
            assert ran.code == code
            assert [each["status"] for each in events(ran)] == ["planned", "failed"][-len(names) :]
            assert "There is no file in/lost.png." in ran.err

    def test_collisions_are_refused_before_anything_is_done(self, med: Med, home: Path) -> None:
        write(home / "in/0.jpg", noise(9))
        ran = med("denoise", "in", "--format", "png")
        assert ran.code == 1
        assert "would become" in ran.err
        assert not (home / "in.denoised").exists()


class TestCorruptions:
    """With a model whose card says that it has seen missing pixels and images that were small."""

    @pytest.fixture
    def fix(self, med: Med, home: Path) -> Med:
        save_tiny(home / "fix.safetensors", noises=("drop:0.5", "rescale:2", "rescale:3,filter=lanczos"))
        write(home / "mask.png", np.repeat([[255] * 10 + [0] * 30], 30, 0).astype(np.uint8))
        return lambda *words: med("denoise", *words, "--model", "fix.safetensors")

    def test_only_what_is_white_in_the_mask_changes(self, fix: Med, home: Path) -> None:
        ran = fix("in/0.png", "--mask", "mask.png", "-o", "out.png")
        assert "300 of 1,200 pixels were missing" in ran.err
        before, after = pixels_of(home / "in/0.png"), pixels_of(home / "out.png")
        assert np.array_equal(before[:, 10:], after[:, 10:])
        assert (before[:, :10] != after[:, :10]).any()

    def test_what_lies_under_the_mask_does_not_matter(self, fix: Med, home: Path) -> None:
        torn = noise(0)
        for number in (0, 200):
            torn[:, :10] = number
            write(home / f"torn{number}.png", torn)
            fix(f"torn{number}.png", "--mask", "mask.png", "-o", f"out{number}.png")
        write(home / "black.bmp", np.zeros((30, 40), np.uint8)).rename("black")
        fix("torn0.png", "--mask", "black", "-o", "black.png")
        assert "0 of 1,200 pixels were missing" in fix("torn0.png", "--mask", "./black", "-o", "as it was.png").err
        results = [pixels_of(home / f"{name}.png") for name in ("out0", "out200", "black")]
        assert np.array_equal(results[0], results[1])
        assert np.array_equal(results[0], results[2])

    def test_a_blank_page_stays_blank_but_a_blank_image_is_refused(self, fix: Med, home: Path) -> None:
        stack = noise(0, (3, 30, 40))
        stack[0, :, :10] = stack[1] = 0
        tifffile.imwrite(home / "stack.tif", stack, photometric="minisblack")
        ran = fix("stack.tif", "--mask", "black", "-o", "out.tif")
        assert f"{np.count_nonzero(stack[[0, 2]] == 0)} of 3,600 pixels were missing" in ran.err
        after = tifffile.imread(home / "out.tif")
        assert (after[0, :, :10] != 0).any()
        assert not after[1].any()
        write(home / "blank.png", np.zeros((30, 40), np.uint8))
        for words in (["blank.png", "--mask", "black"], ["stack.tif", "--mask", "white.png"]):
            write(home / "white.png", np.full((30, 40), 255, np.uint8))
            ran = fix(*words, "-o", "out.png" if words[0] == "blank.png" else "other.tif")
            assert ran.code == 1
            assert "all pixels are missing" in ran.err

    def test_what_is_hidden_is_nothing_to_go_by(self, fix: Med, home: Path) -> None:
        pixels = noise(0, (30, 40, 4))
        pixels[..., 3] = 0
        write(home / "clear.png", pixels)
        pixels[:, :10, 3] = 255
        write(home / "rest.png", pixels)
        ran = fix("rest.png", "--mask", "mask.png", "-o", "out.png")
        assert ran.code == 1
        assert "all pixels are missing" in ran.err
        write(home / "none.png", np.zeros((30, 40), np.uint8))
        assert fix("clear.png", "--mask", "none.png", "-o", "out.png").code == 0

    def test_a_folder_has_a_mask_for_each_and_a_changed_one_counts(self, fix: Med, home: Path) -> None:
        for name in ("0.png", "1.bmp", "2.png", "3.png"):
            write(home / "masks" / name, pixels_of(home / "mask.png"))
        ask = ("in", "-o", "out", "--mask", "masks")
        assert "4 done" in fix(*ask).err
        assert "4 up to date" in fix(*ask).err
        write(home / "masks" / "1.bmp", np.zeros((30, 40), np.uint8))
        assert "1 done, 3 up to date" in fix(*ask).err
        assert np.array_equal(pixels_of(home / "out/1.png"), pixels_of(home / "in/1.png"))
        (home / "masks" / "3.png").unlink()
        ran = fix(*ask)
        assert ran.code == 1
        assert "no mask in masks for in/3.bmp" in ran.err
        same = fix("in", "-o", "out", "--mask", "mask.png").err
        assert "1 done, 3 up to date" in same, "masks are distinguished by their content, not by their place"

    def test_one_mask_for_many_is_distinguished_by_one_reading(self, fix: Med, monkeypatch: pytest.MonkeyPatch) -> None:
        requested: list[Path] = []
        monkeypatch.setattr(files, "blake2b_of", lambda path: requested.append(path) or "content")
        assert "4 done" in fix("in", "-o", "out", "--mask", "mask.png").err
        assert requested == [Path("mask.png")]

    def test_a_mask_of_another_size_fails_alone(self, fix: Med, home: Path) -> None:
        write(home / "in/0.png", noise(0, (20, 20, 3)))
        ran = fix("in", "-o", "out", "--mask", "mask.png")
        assert ran.code == 3
        assert "3 done, 1 failed" in ran.err
        assert "mask.png is 40x30 pixels, but its image 20x20" in ran.err

    def test_a_larger_image_with_or_without_tiles(self, fix: Med, home: Path) -> None:
        write(home / "wide.png", noise(1, (50, 90, 3)))
        assert "tile 64, 180x100" in fix("wide.png", "--upscale", 2, "-o", "a.png", "--tile", 64).err
        assert "untiled, 180x100" in fix("wide.png", "--upscale", 2, "-o", "b.png", "--tile", 0).err
        difference = pixels_of(home / "a.png").astype(int) - pixels_of(home / "b.png")
        assert difference.shape == (100, 180, 3)
        assert np.abs(difference).max() <= 1

    def test_folders_grow_and_resume_by_factor(self, fix: Med) -> None:
        ask = ("in", "-o", "out", "--json", "--upscale")
        assert {each["width"] for each in events(fix(*ask, 2))} == {80}
        assert {each["status"] for each in events(fix(*ask, 2))} == {"skipped"}
        assert {each["width"] for each in events(fix(*ask, 3))} == {120}

    @pytest.mark.parametrize(
        ("words", "code", "message"),
        [
            ("--mask mask.png --upscale 2", 2, "are two runs"),
            ("--mask mask.png --strength 0.5", 2, "--strength does not go with --mask"),
            ("--mask=", 2, "name is empty"),
            ("--upscale 1", 2, "not in the range"),
            ("--upscale 4", 1, "It enlarges 2 or 3 times"),
            ("--mask nowhere.png", 1, "no mask nowhere.png"),
            ("--upscale 3 --max-pixels 2000", 1, "--max-pixels"),
            ("--mask mask.png -o mask.png --force", 1, "would overwrite a mask"),
        ],
    )
    def test_errors(self, fix: Med, words: str, code: int, message: str) -> None:
        ran = fix("in/0.png", *words.split())
        assert ran.code == code
        assert message in ran.err

    @pytest.mark.parametrize("words", ["--mask mask.png", "--mask black", "--upscale 2"])
    def test_other_models_say_that_they_cannot(self, med: Med, fix: Med, words: str) -> None:
        ran = med("denoise", "in/0.png", *words.split(), "--dry-run")
        assert ran.code == 1
        assert "'tiny' was not trained to" in ran.err
        assert "med train --pool corruption" in ran.err


class TestErrors:
    @pytest.mark.parametrize(
        ("content", "words"),
        [(None, "There is no file"), (b"", "is empty"), (b"hello, this is a text", "is not an image")],
    )
    def test_bad_input(self, med: Med, home: Path, content: bytes | None, words: str) -> None:
        if content is not None:
            (home / "bad.png").write_bytes(content)
        ran = med("denoise", "bad.png")
        assert ran.code == 1
        assert words in ran.err
        assert "Traceback" not in ran.err
        assert ran.err.count("error:") == 1
        assert not list(home.glob("*denoised*"))

    def test_a_bomb(self, med: Med) -> None:
        ran = med("denoise", "in/0.png", "--max-pixels", "1000")
        assert ran.code == 1
        assert "1,200" in ran.err or "1200" in ran.err or "40x30" in ran.err or "40 x 30" in ran.err

    def test_an_unwritable_output(self, med: Med, home: Path) -> None:
        (home / "file").touch()
        ran = med("denoise", "in/0.png", "-o", "file/a.png")
        assert ran.code == 1
        assert "cannot be written" in ran.err

    def test_a_name_that_no_file_can_have(self, med: Med) -> None:
        ran = med("denoise", "x" * 300 + ".png")
        assert ran.code == 1
        assert ran.err.startswith("error: ")

    def test_models(self, med: Med, home: Path, tiny: Path) -> None:
        (home / "torn.safetensors").write_bytes(tiny.read_bytes()[:-100])
        save_tiny(home / "gray.safetensors", channels=1)
        for model, words in (
            ("no-such-model", "There is no model called 'no-such-model'"),
            ("torn.safetensors", "corrupt"),
            ("gray.safetensors", "channel"),
        ):
            ran = med("denoise", "in/0.png", "--model", model)
            assert (ran.code, ran.err.count("error:")) == (1, 1)
            assert words in ran.err
        assert not list(home.rglob("*denoised*"))

    def test_a_device_that_is_not_there(self, med: Med) -> None:
        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        ran = med("denoise", "in/0.png", "--device", "cuda")
        assert ran.code == 1
        assert "--device cpu" in ran.err

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["denoise", "--strenght", "1", "in/0.png"], "--strength"),
            (["denois", "in/0.png"], "Did you mean 'denoise'?"),
            (["in/0.png"], "Did you mean 'med denoise in/0.png'?"),
            (["denoise"], "Missing argument"),
            (["denoise", ""], "name is empty"),
            (["denoise", "in/0.png", "-o", ""], "name is empty"),
            (["denoise", "in/0.png", "--model", ""], "name is empty"),
            (["denoise", "in/0.png", "--mask", ""], "name is empty"),
            (["adapt", "in", "--save", ""], "name is empty"),
            (["synth-pairs", "--from", "", "--to", "x"], "name is empty"),
            (["synth-pairs", "--from", "in", "--to", ""], "name is empty"),
            (["eval", "--clean", ""], "name is empty"),
            (["train", "--data", "", "-o", "run"], "name is empty"),
            (["models", "export", "photo", "--to", "onnx", "-o", ""], "name is empty"),
            (["denoise", "in/0.png", "--device", "gpu"], "auto, cpu, cuda"),
            (["denoise", "in/0.png", "--tile", "-1"], "number of pixels"),
            (["denoise", "in/0.png", "--strength", "2"], "--strength"),
            (["denoise", "in/0.png", "--strength", "nan"], "--strength"),
            (["denoise", "in/0.png", "--suffix", "a/b"], "--suffix"),
            (["denoise", "in/0.png", "--suffix", "-x", "-o", "a.png"], "-o a.png is the whole name"),
            (["denoise", "in/0.png", "--tile", "0", "--overlap", "16"], "--overlap has no meaning"),
        ],
    )
    def test_usage(self, med: Med, arguments: list[str], words: str) -> None:
        ran = med(*arguments)
        assert ran.code == 2
        assert words in ran.err

    @pytest.mark.parametrize(
        "error",
        [RuntimeError("could not create a primitive"), ImportError("x.so: failed to map segment"), MemoryError()],
    )
    def test_no_memory_for_the_model(
        self, med: Med, home: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **options: object) -> NoReturn:
            raise error

        monkeypatch.setattr(medcli.api, "load_model", fail)
        ran = med("denoise", "in")
        assert ran.code == 1
        assert ran.err.startswith("error: There is not enough memory.")

    def test_an_interrupted_run(self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupted(*arguments: object, **options: object) -> NoReturn:
            raise KeyboardInterrupt

        monkeypatch.setattr(medcli.api, "load_model", interrupted)
        ran = med("denoise", "in")
        assert ran.code == 130
        assert ran.err.strip() == "interrupted"
        assert not left_behind(home)

    @pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM to catch")
    def test_a_terminated_run(self, med: Med, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def terminated(*arguments: object, **options: object) -> NoReturn:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
            raise AssertionError

        monkeypatch.setattr(medcli.api, "load_model", terminated)
        assert med("denoise", "in").code == 143
        assert not left_behind(home)


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "masked.safetensors", strategy="masks:k=2,pd=2")


class TestMasks:
    def test_refinement_samples_and_seed_change_the_image_and_what_is_up_to_date(
        self, med: Med, home: Path, masked: Path
    ) -> None:
        results = {}
        for options in ([], ["--refine"], ["--refine=2"], ["--samples", "3"], ["--seed", "1"]):
            ran = med("denoise", "in", *options, "--model", str(masked), "-o", "out")
            assert ran.code == 0, ran.err
            assert "4 done" in ran.err
            results[" ".join(options)] = (home / "out/0.png").read_bytes()
            assert "4 up to date" in med("denoise", "in", *options, "--model", str(masked), "-o", "out").err
        assert len(set(results.values())) == 5
        assert med("denoise", "in/0.png", "--refine=8", "--model", str(masked), "-o", "one.png").code == 0
        assert (home / "one.png").read_bytes() == results["--refine"]

    @pytest.mark.parametrize("dry", [[], ["--dry-run"]])
    def test_a_model_without_masks_is_an_error(self, med: Med, monkeypatch: pytest.MonkeyPatch, dry: list[str]) -> None:
        monkeypatch.setattr(medcli.api, "load_model", never)
        ran = med("denoise", "in", "--refine", "--seed", "3", *dry)
        assert ran.code == 1
        assert "'tiny' is not a blind-spot model, so it cannot take --refine or --seed." in ran.err

    def test_a_image_in_the_place_of_a_number_is_distinguished(self, med: Med) -> None:
        ran = med("denoise", "--refine", "in/0.png")
        assert ran.code == 2
        assert "write --refine=8" in ran.err
        assert med("denoise", "in/0.png", "--refine=65").code == 2

    @pytest.mark.parametrize(("seconds", "said"), [(0.5, ""), (4.0, "6 passes of the network per image: about 24 s")])
    def test_the_cost_is_reported_before_a_long_image(
        self, med: Med, masked: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, said: str
    ) -> None:
        """Each look at the clock of the display is so many seconds after the last: one for each pass."""
        reported = []
        for arguments in (["--refine=2"], ["--refine=2", "--quiet", "--force"]):
            clock = itertools.count(0, seconds)
            monkeypatch.setattr(progress.time, "monotonic", lambda clock=clock: float(next(clock)))
            reported.append(med("denoise", "in/0.png", "in/1.png", *arguments, "--model", str(masked)).err)
        assert reported[1] == ""
        assert said in reported[0]
        assert ("passes" in reported[0]) == bool(said)
        assert reported[0].count("for 0.png, the first of 2 images\n") == bool(said)
        piped = med("denoise", "-", "--refine=2", "--model", str(masked), stdin=Path("in/0.png").read_bytes()).err
        assert piped.count("about 24 s for stdin\n") == bool(said)


class TestDisplay:
    @pytest.mark.skipif(os.name == "nt", reason="such names cannot be there")
    def test_a_name_does_not_steer_the_terminal(self, med: Med, home: Path) -> None:
        names = {"\x1b[2J\u202e.png": "\ufffd[2J\ufffd.png", "at 10.00\u202fAM.png": "at 10.00\u202fAM.png"}
        for name, shown in names.items():
            write(home / "odd.png", noise(0)).rename(home / name)
            assert med("denoise", name).err.startswith(f"{shown} -> ")

    def test_a_bar_needs_a_terminal_that_moves(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert not terminal_can_animate()
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
        monkeypatch.setenv("TERM", "xterm")
        assert terminal_can_animate()
        monkeypatch.setenv("TERM", "dumb")
        assert not terminal_can_animate()

    @pytest.mark.parametrize(("patience", "shown"), [(60.0, False), (0.0, True)])
    def test_a_bar_comes_only_after_a_while(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], patience: float, shown: bool
    ) -> None:
        monkeypatch.setattr(progress, "PATIENCE", patience)
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setenv("TERM", "xterm")
        with ProgressDisplay(2, animate=True) as display:
            display.begin("first.png")
            display.advance(1, 4)
            display.line("[bold]a line[/bold]")
            display.begin("second.png")
            display.advance(4, 4)
        written = capsys.readouterr().err
        assert "[bold]a line[/bold]" in written
        assert ("2 images" in written) == shown
        assert ("first.png" in written) == shown

    def test_no_bar_for_the_last_moment_of_one_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(progress, "PATIENCE", 0.0)
        display = ProgressDisplay(1, animate=True)
        display.begin("only.png")
        display.advance(1, 1)
        assert display._bar is None


class TestPython:
    def test_masks_are_given_by_name(self, tiny: Path, masked: Path) -> None:
        array = noise(0, (30, 40, 3))
        answers = [medcli.load(masked, device="cpu", **options)(array) for options in ({}, {"seed": 0}, {"seed": 5})]
        assert np.array_equal(answers[0], answers[1])
        assert not np.array_equal(answers[0], answers[2])
        assert medcli.load(masked, refine=8, samples=2, ensemble=True).passes == 8 * 2 * (2 + 8)
        with pytest.raises(ModelError, match="cannot take refine"):
            medcli.load(tiny, refine=0)
        with pytest.raises(ModelError, match="samples=0"):
            medcli.load(masked, samples=0)

    @pytest.mark.parametrize("options", [{}, {"refine": 2, "samples": 2}])
    def test_masks_do_not_depend_on_the_order_of_images(self, masked: Path, options: dict[str, int]) -> None:
        images = [noise(seed, (30 + seed, 40, 3)) for seed in range(3)]
        forth, back = (medcli.load(masked, device="cpu", **options) for _ in range(2))
        first = [forth(image) for image in images]
        second = [back(image) for image in reversed(images)]
        assert all(np.array_equal(one, other) for one, other in zip(first, reversed(second), strict=True))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    @pytest.mark.parametrize("shape", [(30, 40), (30, 40, 2), (30, 40, 3), (30, 40, 4)])
    def test_arrays_come_back_as_they_were(self, tiny: Path, shape: tuple[int, ...], dtype: type) -> None:
        array = noise(0, shape, dtype)
        before = array.copy()
        restored = medcli.denoise(array, tiny)
        assert restored.shape == shape
        assert restored.dtype == dtype
        assert np.array_equal(array, before), "the caller's array is not touched"
        if shape[2:] in ((2,), (4,)):
            assert np.array_equal(restored[..., -1], array[..., -1])
            restored, array = restored[..., :-1], array[..., :-1]
        assert (restored != array).any()
        assert np.array_equal(medcli.denoise(before, tiny, strength=0), before)

    def test_a_loaded_model_gives_the_same(self, tiny: Path) -> None:
        array = noise(0)
        assert np.array_equal(medcli.load(tiny)(array), medcli.denoise(array, tiny))
        assert (medcli.load(tiny, ensemble=True)(array) != medcli.load(tiny)(array)).any()

    def test_a_stack_is_not_one_array(self, tiny: Path, tmp_path: Path) -> None:
        tifffile.imwrite(tmp_path / "stack.tif", noise(0, (2, 20, 24)), photometric="minisblack")
        with pytest.raises(InputError, match="2 pages"):
            medcli.denoise(tmp_path / "stack.tif", tiny)


@pytest.mark.skipif(os.name == "nt", reason="the time of child processes is not known there")
def test_a_small_image_takes_less_than_four_seconds(home: Path, tiny: Path) -> None:
    write(home / "small.png", noise(0, (512, 512, 3)))
    before = os.times()
    command = [sys.executable, "-m", "medcli", "denoise", "small.png", "--model", str(tiny)]
    subprocess.run(command, check=True, capture_output=True, env=environment())
    after = os.times()  # processor time, which a busy machine does not stretch
    assert after.children_user + after.children_system - before.children_user - before.children_system < 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_in_the_table_is_there(med: Med, name: str) -> None:
    ran = med(name, "--help")
    assert ran.code == 0
    assert ran.out.decode().startswith(f"Usage: med {name}")
