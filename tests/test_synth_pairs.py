"""`med synth-pairs` as a user meets it: names, formats, the manifest, interruptions, and several processes."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms

from medcli.batch.executors.inline import Inline
from medcli.batch.executors.processes import Processes
from medcli.batch.pairs import SyntheticPairsFromFiles
from medcli.batch.synth.run import NotatedNoise, SynthOptions, SynthOutcome, SynthTask, make, plan, synthesise
from medcli.cli import med
from medcli.data.folders import images_in, matched
from medcli.data.pairs import MANIFEST, Side
from medcli.errors import InputError, MedcliError, OptionError, OutputError, RecipeError, SomeFailed
from medcli.images import read
from medcli.noise.notation import parse

ENDING = "noise added in float, clipped at the end, rounded to 8 bits"


@pytest.fixture
def noisy(image_folder: Path) -> Path:
    return image_folder.with_name("noisy")


def run(*arguments: object) -> None:
    med.main(["synth-pairs", "--processes", "1", *map(str, arguments)], prog_name="med", standalone_mode=False)


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / MANIFEST).read_text().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, hidden ones too."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels_of(path: Path) -> np.ndarray:
    return read(path).pages[0].pixels


def ordered(clean: Path, noisy: Path, spec: str = "gaussian:5-50", **options: Any) -> SynthOptions:
    return SynthOptions(clean, noisy, NotatedNoise(parse(spec)), **options)


def planned(order: SynthOptions) -> list[SynthTask]:
    return plan(order.clean, order.noisy, count=order.count, depth=order.depth, format=order.format)


def made(order: SynthOptions, processes: int = 1) -> list[SynthOutcome]:
    executor = Processes(processes) if processes > 1 else Inline(threads=1)
    return list(synthesise(order, planned(order), executor))


@pytest.mark.parametrize("spec", ["noise", "gaussian:5-50+clip+poisson:30"])
def test_the_pixels_are_those_of_med_eval(spec: str, image_folder: Path, noisy: Path) -> None:
    (image_folder / "sub").mkdir()
    (image_folder / "0.png").rename(image_folder / "sub" / "0.png")
    cv2.imwrite(str(image_folder / "gray.png"), np.arange(64 * 80, dtype=np.uint16).reshape(64, 80) * 12)
    run("--from", image_folder, "--to", noisy, "--noise", spec, "--depth", 8, "--seed", 7)
    scored = SyntheticPairsFromFiles(image_folder, images_in(image_folder), parse(spec), seed=7, round=True)
    drawn = {row["source"]: row["drawn"] for row in rows(noisy)}
    assert len(scored) == 6
    for pair in scored:
        assert np.array_equal(pixels_of(noisy / pair.name), pair.noisy)
        assert drawn[pair.name] == pair.drawn


@pytest.mark.parametrize("processes", [1, 2])
def test_a_locked_subfolder_fails_alone(processes: int, image_folder: Path, noisy: Path, locked: str) -> None:
    (image_folder / locked).mkdir()
    with pytest.raises(SomeFailed) as caught:
        run("--from", image_folder, "--to", noisy, "--noise", "gaussian:25", "--processes", processes)
    assert caught.value.hint == f"The folder {image_folder / locked} cannot be read: Permission denied."
    assert len(rows(noisy)) == 5


def test_other_files_are_counted(image_folder: Path, noisy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.psd", "b.PSD", ".hidden"):
        (image_folder / name).touch()
    run("--from", image_folder, "--to", noisy, "--noise", "gaussian:25")
    assert capsys.readouterr().err.splitlines()[-1].endswith("; 2 skipped: .psd")


def test_every_output_has_a_line(image_folder: Path, noisy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--from", image_folder, "--to", noisy, "--noise", "gaussian:5-50", "--seed", 3)
    printed = capsys.readouterr().err.splitlines()
    assert printed[-1].startswith("5 done in ")
    for row, line in zip(rows(noisy), printed, strict=False):
        source, output = image_folder / row["source"], noisy / row["output"]
        assert line == f"{source} -> {output}: {row['drawn']}, {ENDING}"
        assert [row[key] for key in ("seed", "draw", "noise", "protocol")] == [3, 0, "gaussian:5-50", ENDING]
        assert row["source_sha256"] == sha256(source)
        assert row["output_sha256"] == sha256(output)
        level = float(row["drawn"].partition(":")[2])
        difference = pixels_of(output).astype(float) - pixels_of(source)
        assert difference.std() == pytest.approx(level, rel=0.15)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_number_of_processes_changes_nothing(image_folder: Path, noisy: Path) -> None:
    (image_folder / "bad.png").write_bytes(b"no image")
    folders = [noisy.with_name(f"noisy{processes}") for processes in (1, 2, 3)]
    outcomes = [made(ordered(image_folder, folder, "noise"), int(folder.name[-1])) for folder in folders]
    assert content(folders[0]) == content(folders[1]) == content(folders[2])
    assert len(content(folders[0])) == 6
    for each in outcomes:
        assert [one.status for one in each] == ["done"] * 5 + ["failed"]
        assert [one.task.source for one in each] == ["0.png", "1.png", "2.png", "3.png", "4.png", "bad.png"]


def test_seed_and_draw_each_change_the_noise(image_folder: Path, noisy: Path) -> None:
    other = noisy.with_name("other")
    run("--from", image_folder, "--to", noisy, "--noise", "gaussian:25", "--count", 2)
    run("--from", image_folder, "--to", other, "--noise", "gaussian:25", "--seed", 1)
    clean = pixels_of(image_folder / "1.png").astype(float)
    first, second, third = (
        (pixels_of(folder / "1.png") - clean).ravel() for folder in (noisy / "0000", noisy / "0001", other)
    )
    assert max(abs(np.corrcoef([first, second, third])[np.triu_indices(3, 1)])) < 0.1


def test_each_draw_is_a_mirror_that_pairs_by_name(image_folder: Path, noisy: Path) -> None:
    single = noisy.with_name("single")
    run("--from", image_folder, "--to", noisy, "--count", 3)
    run("--from", image_folder, "--to", single)
    folders = [noisy / name for name in ("0000", "0001", "0002")]
    assert len(matched(image_folder, *folders)) == 5
    assert all(pixels_of(folders[0] / n).tobytes() == pixels_of(single / n).tobytes() for n in ("0.png", "4.png"))
    assert [(row["source"], row["draw"], row["output"]) for row in rows(noisy)][4:6] == [
        ("4.png", 0, "0000/4.png"),
        ("0.png", 1, "0001/0.png"),
    ]


class TestFiles:
    """What a partner has of its clean file."""

    @pytest.mark.parametrize(
        ("options", "outputs"),
        [
            ([], "a.png b.png c.png d.bmp e.TIF"),
            (["--depth", "16"], "a.png b.png c.png d.png e.TIF"),
            (["--depth", "float"], "a.tif b.tif c.tif d.tif e.TIF"),
            (["--format", "tiff"], "a.tif b.tif c.tif d.tif e.TIF"),
        ],
    )
    def test_names(self, options: list[str], outputs: str, tmp_path: Path) -> None:
        pixels = np.full((16, 24, 3), 90, np.uint8)
        for name in ("a.jpg", "b.webp", "c.png", "d.bmp", "e.TIF"):
            self.save(tmp_path / "clean" / name, pixels)
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy", "--noise", "gaussian:5", *options)
        assert [path.as_posix() for path in images_in(tmp_path / "noisy")] == outputs.split()
        depth = {"16": np.uint16, "float": np.float32}.get(options[-1] if options else "", np.uint8)
        assert {pixels_of(tmp_path / "noisy" / name).dtype for name in outputs.split()} == {np.dtype(depth)}

    def save(self, path: Path, pixels: np.ndarray) -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())

    def test_16_bit_gray_with_alpha_and_profile(self, tmp_path: Path) -> None:
        profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
        draws = np.random.default_rng(0)
        clean = draws.integers(12000, 54000, (32, 40, 2), np.uint16)
        (tmp_path / "clean").mkdir()
        tifffile.imwrite(
            tmp_path / "clean" / "a.tif", clean, photometric="minisblack", extrasamples=["unassalpha"],
            iccprofile=profile,
        )  # fmt: skip
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy", "--noise", "gaussian:10")
        image = read(tmp_path / "noisy" / "a.tif")
        page = image.pages[0]
        assert page.pixels.dtype == np.uint16
        assert page.alpha is not None
        assert np.array_equal(page.alpha, clean[..., 1])
        assert image.metadata.icc == profile
        difference = (page.pixels.astype(float) - clean[..., 0]) / 257
        assert difference.std() == pytest.approx(10, rel=0.1)
        assert any(page.pixels.ravel() % 257)
        assert rows(tmp_path / "noisy")[0]["protocol"].endswith("rounded to 16 bits")

    def test_floats_are_not_clipped_and_keep_what_is_no_number(self, tmp_path: Path) -> None:
        clean = np.full((32, 32), 0.01, np.float32)
        clean[0, 0], clean[0, 1] = np.nan, 3.0
        (tmp_path / "clean").mkdir()
        tifffile.imwrite(tmp_path / "clean" / "a.tif", clean)
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy", "--noise", "poisson:100+gaussian:25")
        result = pixels_of(tmp_path / "noisy" / "a.tif")
        assert np.isnan(result[0, 0])
        assert np.isfinite(result).sum() == result.size - 1
        assert np.nanmin(result) < 0
        assert result[0, 1] > 2
        assert "clipped and rounded only where the noise says so" in rows(tmp_path / "noisy")[0]["protocol"]

    def test_depth_changes_alpha_too(self, tmp_path: Path) -> None:
        (tmp_path / "clean").mkdir()
        Image.new("RGBA", (16, 16), (90, 90, 90, 51)).save(tmp_path / "clean" / "a.png")
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy", "--depth", 16)
        alpha = read(tmp_path / "noisy" / "a.png").pages[0].alpha
        assert alpha is not None
        assert (alpha.dtype, *np.unique(alpha)) == (np.dtype(np.uint16), 51 * 257)

    def test_each_page_of_a_stack_is_drawn(self, tmp_path: Path) -> None:
        (tmp_path / "clean").mkdir()
        tifffile.imwrite(tmp_path / "clean" / "a.tif", np.full((2, 24, 32), 100, np.uint8), photometric="minisblack")
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy", "--noise", "gaussian:5-50")
        first, second = (page.pixels.astype(float) for page in read(tmp_path / "noisy" / "a.tif").pages)
        levels = [float(word[9:]) for word in rows(tmp_path / "noisy")[0]["drawn"].split(" | ")]
        assert [first.std(), second.std()] == pytest.approx(levels, rel=0.2)

    def test_a_format_that_would_change_the_values_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "clean").mkdir()
        tifffile.imwrite(tmp_path / "clean" / "a.tif", np.zeros((8, 8), np.float32))
        order = ordered(tmp_path / "clean", tmp_path / "noisy", format="png")
        (outcome,) = made(order)
        assert str(outcome.error).startswith(f"{tmp_path}/clean/a.tif: PNG cannot hold float32.")
        assert not (tmp_path / "noisy").exists()


class TestContinuing:
    """Runs after runs, whole or killed."""

    @pytest.fixture
    def whole(self, image_folder: Path) -> dict[str, bytes]:
        """What an undisturbed run leaves."""
        made(ordered(image_folder, image_folder.with_name("whole"), count=2))
        return content(image_folder.with_name("whole"))

    def test_what_is_up_to_date_is_left_alone(self, image_folder: Path, noisy: Path) -> None:
        order = ordered(image_folder, noisy)
        made(order)
        old = dict(rows(noisy)[1], medcli="0.0.1")
        lines = (noisy / MANIFEST).read_text().splitlines(keepends=True)
        (noisy / MANIFEST).write_text(lines[0] + json.dumps(old) + "\n" + "".join(lines[2:]))
        before = {path: path.stat().st_ino for path in noisy.iterdir()}
        assert {each.status for each in made(order)} == {"skipped"}
        assert {path: path.stat().st_ino for path in noisy.iterdir()} == before
        assert rows(noisy)[1]["medcli"] == "0.0.1"

    @pytest.mark.parametrize("options", [{"seed": 1}, {"spec": "gaussian:5-51"}, {"depth": "16"}, {"overwrite": True}])
    def test_another_order_makes_them_again(self, options: dict[str, Any], image_folder: Path, noisy: Path) -> None:
        made(ordered(image_folder, noisy))
        assert {each.status for each in made(ordered(image_folder, noisy, **options))} == {"done"}
        fresh = ordered(image_folder, noisy.with_name("fresh"), **options)
        made(fresh)
        assert content(noisy) == content(fresh.noisy)

    def test_a_pool_with_other_shares_under_the_same_name_is_another_noise(
        self, image_folder: Path, noisy: Path, tmp_path: Path
    ) -> None:
        pool = tmp_path / "mine.yaml"
        for shares, status in (("gaussian:5: 1", "done"), ("gaussian:5: 1", "skipped"), ("gaussian:50: 1", "done")):
            pool.write_text(shares)
            assert {each.status for each in made(ordered(image_folder, noisy, str(pool)))} == {status}

    def test_a_changed_clean_image_gets_a_new_copy(self, image_folder: Path, noisy: Path) -> None:
        made(ordered(image_folder, noisy))
        (image_folder / "3.png").write_bytes((image_folder / "2.png").read_bytes())
        assert [each.status for each in made(ordered(image_folder, noisy))].count("done") == 1

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("renames", [1, 4, 11])
    def test_killed_at_a_rename(self, renames: int, whole: dict[str, bytes], image_folder: Path, noisy: Path) -> None:
        """The eleventh is that of the manifest: in the end it is sorted."""
        order = ordered(image_folder, noisy, count=2)
        if (child := os.fork()) == 0:
            killed_at_rename(order, renames)
        assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
        assert any(name.endswith(".part") for name in content(noisy))
        sound = {name: data for name, data in content(noisy).items() if name.endswith(".png")}
        assert len(sound) == renames - 1
        assert sound.items() <= whole.items()
        assert [each.status for each in made(order)].count("skipped") == renames - 1
        assert {name: data for name, data in content(noisy).items() if ".part" not in name} == whole
        assert not list((noisy / "0000").glob(".*"))

    @pytest.mark.parametrize("cut", [-1, -30, -700, 5, 0])
    def test_a_torn_manifest(self, cut: int, whole: dict[str, bytes], image_folder: Path, noisy: Path) -> None:
        order = ordered(image_folder, noisy, count=2)
        made(order)
        (noisy / MANIFEST).write_bytes((noisy / MANIFEST).read_bytes()[:cut])
        before = {path: path.stat().st_ino for path in noisy.rglob("*.png")}
        assert not any(each.error for each in made(order))
        assert content(noisy) == whole
        assert {path: path.stat().st_ino for path in noisy.rglob("*.png")} == before

    def test_a_damaged_copy_is_not_taken_for_whole(self, image_folder: Path, noisy: Path) -> None:
        order = ordered(image_folder, noisy)
        made(order)
        good = (noisy / "2.png").read_bytes()
        (noisy / "2.png").write_bytes(good[:-9])
        failed = [each for each in made(order) if each.status == "failed"]
        assert "2.png exists, and is no result of an earlier run here, or was changed since" in str(failed[0].error)
        made(replace(order, overwrite=True))
        assert (noisy / "2.png").read_bytes() == good

    def test_files_of_others_stay(self, image_folder: Path, noisy: Path) -> None:
        noisy.mkdir()
        (noisy / "1.png").write_bytes(b"mine")
        with pytest.raises(SomeFailed, match="1 of 5 noisy copies failed"):
            run("--from", image_folder, "--to", noisy)
        assert (noisy / "1.png").read_bytes() == b"mine"
        run("--from", image_folder, "--to", noisy, "--overwrite")
        assert len(rows(noisy)) == 5

    @pytest.mark.parametrize("line", ['{"source": "a.png", "target": "b.png"}', "# my pairs", "[1]"])
    def test_a_manifest_of_others_stays(self, line: str, image_folder: Path, noisy: Path) -> None:
        noisy.mkdir()
        (noisy / MANIFEST).write_text(line + "\n")
        with pytest.raises(OutputError, match="is not a manifest"):
            run("--from", image_folder, "--to", noisy)

    def test_a_dry_run_writes_nothing(
        self, image_folder: Path, noisy: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run("--from", image_folder, "--to", noisy, "--dry-run")
        assert not noisy.exists()
        run("--from", image_folder, "--to", noisy)
        (noisy / "1.png").unlink()
        capsys.readouterr()
        run("--from", image_folder, "--to", noisy, "-n")
        printed = capsys.readouterr().err
        assert f"{image_folder / '1.png'} -> {noisy / '1.png'}: to do\n" in printed
        assert "1 to do, 4 up to date in " in printed


def killed_at_rename(order: SynthOptions, count: int) -> None:
    """Makes copies until a file is about to get its name for the `count`th time."""
    left = iter(range(count - 1))

    def rename(partial: Path, target: Path) -> None:
        if next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        os.rename(partial, target)  # noqa: PTH104 - Path.rename is what is replaced

    Path.replace = rename  # type: ignore[method-assign, assignment]
    made(order)
    os._exit(0)


@dataclass(frozen=True)
class Brightness:
    """Stands for a noise model that was learned: no notation, and what it drew is its own affair."""

    deadly: int = 0
    name: str = "brightness"
    fingerprint: str = "brightness v1"
    makes: Side = "noisy"

    def draw(self, clean: torch.Tensor, generator: torch.Generator, /) -> tuple[torch.Tensor, str]:
        if clean.shape[2] == self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        shift = torch.rand((), generator=generator).item() / 4
        return clean + shift, f"brightness {shift:.3f}"


def test_a_learned_model_can_take_the_place_of_a_noise(image_folder: Path, noisy: Path) -> None:
    outcomes = made(SynthOptions(image_folder, noisy, Brightness(), depth="float"))
    for each, row in zip(outcomes, rows(noisy), strict=True):
        shift = pixels_of(noisy / each.task.output) - pixels_of(image_folder / each.task.source) / 255
        assert row["drawn"] == f"brightness {shift.mean():.3f}"
        assert row["fingerprint"] == "brightness v1"


def test_a_killed_worker_is_an_error(image_folder: Path, noisy: Path) -> None:
    cv2.imwrite(str(image_folder / "1a.png"), np.zeros((8, 13, 3), np.uint8))
    outcomes = made(SynthOptions(image_folder, noisy, Brightness(deadly=13)), processes=2)
    assert [each.status for each in outcomes] == ["done", "done", "failed", "done", "done", "done"]
    message_lines = str(outcomes[2].error)
    assert message_lines.startswith(f"{image_folder / '1a.png'}: the process that worked on it was killed by signal 9.")
    assert "fewer --workers" in message_lines
    assert len(rows(noisy)) == 5
    assert not multiprocessing.active_children()


@pytest.mark.skipif(os.name == "nt", reason="needs process groups")
def test_ctrl_c_ends_all_processes_quietly(image_folder: Path, noisy: Path) -> None:
    arguments = ["--from", str(image_folder), "--to", str(noisy), "--count", "5000", "--processes", "2"]
    command = [sys.executable, "-m", "medcli", "synth-pairs", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, text=True) as process:
        assert process.stderr is not None
        assert "0.png -> " in process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()  # ends when the last process has ended
    assert process.returncode == 130
    assert "Traceback" not in rest
    assert rest.endswith("interrupted\n")
    left = content(noisy)
    assert 0 < len(left) < 20000
    assert not any(name.endswith(".part") for name in left)
    assert {row["output"] for row in rows(noisy)} <= left.keys()


def test_bad_images_are_named_and_left_out(image_folder: Path, noisy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "1.png").write_bytes((image_folder / "1.png").read_bytes()[:200])
    with pytest.raises(SomeFailed, match="1 of 5 noisy copies failed") as caught:
        run("--from", image_folder, "--to", noisy, "-q")
    assert caught.value.exit_code == 3
    assert capsys.readouterr().err.startswith(f"error: {image_folder / '1.png'} is damaged")
    assert [row["source"] for row in rows(noisy)] == ["0.png", "2.png", "3.png", "4.png"]


def test_nothing_done_is_an_error_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "a.png").write_bytes(b"")
    with pytest.raises(MedcliError, match="None of 1") as caught:
        run("--from", tmp_path / "clean", "--to", tmp_path / "noisy")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "noisy").exists()


def test_a_noise_that_does_not_fit_is_an_error(image_folder: Path, noisy: Path) -> None:
    cv2.imwrite(str(image_folder / "gray.png"), np.full((16, 20), 90, np.uint8))
    order = ordered(image_folder, noisy, "camera")
    outcome = make((planned(order)[-1], None), order)
    assert isinstance(outcome.error, InputError)
    assert "gray.png: 'camera' cannot be added to 20x16 pixels in gray." in outcome.error.problem


def test_folders_must_not_mix(image_folder: Path, noisy: Path) -> None:
    noisy.symlink_to(image_folder)
    for target in (image_folder, image_folder / "noisy", image_folder.parent, noisy / "x"):
        with pytest.raises(OutputError, match="would mix noisy images with the clean ones"):
            run("--from", image_folder, "--to", target)


def test_two_images_must_not_become_one(image_folder: Path, noisy: Path) -> None:
    cv2.imwrite(str(image_folder / "1.jpg"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(OutputError, match=r"Both 1\.jpg and 1\.png would become 1\.png"):
        run("--from", image_folder, "--to", noisy)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--noise", "gaussian:5", "--pool", "noise"], OptionError, "one of them"),
        (["--format", "bmp", "--depth", "16"], OptionError, "BMP cannot hold --depth 16"),
        (["--noise", "gausian:5"], RecipeError, "no noise or pool called 'gausian'"),
        (["--pool", "gaussian:5"], RecipeError, "no pool called 'gaussian:5'"),
        (["--count", "0"], click.UsageError, "0 is not in the range"),
    ],
)
def test_errors_come_before_the_work(
    arguments: list[str], error: type[Exception], words: str, image_folder: Path, noisy: Path
) -> None:
    with pytest.raises(error, match=words):
        run("--from", image_folder, "--to", noisy, *arguments)
    assert not noisy.exists()


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = "import sys; from medcli.cli import med; med.main(['synth-pairs', '--help'], standalone_mode=False)"
    checked = f"{code}; sys.exit(bool({{'torch', 'numpy', 'cv2', 'rich'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", checked], capture_output=True, check=False).returncode == 0


def test_environment_sets_options(image_folder: Path, noisy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MED_SYNTH_PAIRS_SEED", "5")
    med.main(
        ["synth-pairs", "--from", str(image_folder), "--to", str(noisy), "--processes", "1"],
        prog_name="med", standalone_mode=False, auto_envvar_prefix="MED",
    )  # fmt: skip
    assert {row["seed"] for row in rows(noisy)} == {5}
