"""`med eval` as a user meets it: pairs, protocols, tables and errors, with a tiny network of random weights."""

from __future__ import annotations

import csv
import json
import math
import multiprocessing
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from conftest import TINY_UNET

from medcli.archs.unet import ResidualUNet
from medcli.batch.evaluate.run import IDENTITY, EvaluatedMethod, Result, Score, baseline, evaluate, known_sigma
from medcli.batch.evaluate.tables import Protocol, Table, as_json, cells
from medcli.batch.pairs import FilePairs, SyntheticPairsFromFiles, as_floats, as_stored, thinned
from medcli.cli import eval as eval_command
from medcli.cli import eval_run, med
from medcli.data.folders import images_in, matched
from medcli.engine.classical import CLASSICAL, classical
from medcli.errors import InputError, MedcliError, ModelError, OptionError, SomeFailed
from medcli.images import read
from medcli.images.values import ValueRange
from medcli.metrics import PER_IMAGE, psnr
from medcli.noise.gaussian import Gaussian
from medcli.noise.notation import parse
from medcli.zoo import catalog
from medcli.zoo.weights import Card, save

METRICS = {"psnr": psnr}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    network = ResidualUNet(**TINY_UNET)
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save(path, network, Card(id="tiny", architecture="unet", config=network.config))
    return path


@pytest.fixture
def noisy_folder(image_folder: Path) -> Path:
    """Copies of the images of `clean`, in a folder `noisy`: one has another extension."""
    folder = image_folder.with_name("noisy")
    folder.mkdir()
    draws = np.random.default_rng(1)
    for path in image_folder.iterdir():
        pixels = read(path).pages[0].pixels
        levels = (pixels + draws.normal(0, 15, pixels.shape)).round().clip(0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / path.with_suffix(".bmp" if path.stem == "0" else ".png").name), levels[..., ::-1])
    return folder


def run(*arguments: object) -> None:
    med.main(["eval", *map(str, arguments)], prog_name="med", standalone_mode=False)


def noised(folder: Path, spec: str = "gaussian:25", **options: Any) -> SyntheticPairsFromFiles:
    return SyntheticPairsFromFiles(folder, images_in(folder), parse(spec), **options)


def test_what_is_left_out_is_reported(
    image_folder: Path, noisy_folder: Path, locked: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (noisy_folder / "a.psd").touch()
    (noisy_folder / "pairs.jsonl").touch()
    arguments = ["--clean", image_folder, "--noisy", noisy_folder, "--metrics", "psnr"]
    run(*arguments)
    assert capsys.readouterr().err.splitlines()[-1] == "1 skipped: .psd"
    for folder in (image_folder, noisy_folder):
        (folder / locked).mkdir()
    with pytest.raises(SomeFailed) as caught:
        run(*arguments)
    assert "5 images" in capsys.readouterr().out
    assert caught.value.hint.splitlines() == [
        f"The folder {folder / locked} cannot be read: Permission denied." for folder in (image_folder, noisy_folder)
    ]


def test_workers_give_the_same_scores(
    tiny: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["-m", tiny, "--clean", image_folder, "--noise", "gaussian:25", "--classical", "nlm"]
    run(*arguments, "--metrics", "psnr", "--csv", tmp_path / "one.csv", "--device", "cpu", "--threads", 1)
    run(*arguments, "--metrics", "psnr", "--csv", tmp_path / "two.csv", "--device", "cpu,cpu")
    assert "models on cpu,cpu by 2 workers, each timed for itself" in capsys.readouterr().out
    one, two = ([*csv.DictReader((tmp_path / name).open())] for name in ("one.csv", "two.csv"))
    assert len(one) == 15
    timed = {"seconds": "", "megapixels_per_second": ""}
    assert [row | timed for row in one] == [row | timed for row in two]
    with pytest.raises(MedcliError, match="leave --workers and --cluster out"):
        run(*arguments, "--metrics", "psnr,fid", "--workers", 2)
    (image_folder / "2.png").write_bytes(b"nothing")
    with pytest.raises(MedcliError, match=r"2\.png"):
        run(*arguments, "--metrics", "psnr", "--device", "cpu,cpu")
    assert not multiprocessing.active_children()


def test_all_of_it(tiny: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    out = image_folder.parent
    arguments = ["-m", tiny, "--clean", image_folder, "--noise", "gaussian:25", "--noise", "poisson:30"]
    arguments += ["--classical", "nlm", "--classical", "wavelet", "--limit", 2, "--device", "cpu"]
    run(*arguments, "--csv", out / "a.csv", "--json", out / "a.json", "--markdown", out / "a.md")
    printed = capsys.readouterr().out
    assert printed == (out / "a.md").read_text()
    assert (
        f"gaussian:25 on 2 images of {image_folder}, seed 0, not clipped, not rounded; results scored in float, "
        "clipped to [0, 1], over all channels; models in torch on cpu, precision auto, strength 1.\n\n"
        "| method | PSNR dB | SSIM 11x11 Gaussian | SSIM 7x7 uniform | gain dB | worst dB | lose > 0.1 dB | s | MP/s |"
    ) in printed
    tables = json.loads((out / "a.json").read_text())["tables"]
    methods = [[row["method"] for row in table["methods"]] for table in tables]
    assert methods[0] == ["noisy input", str(tiny), "nlm (sigma 25)", "wavelet (sigma 25)"]
    assert methods[1] == ["noisy input", str(tiny), "nlm (sigma estimated)", "wavelet (sigma estimated)"]
    lines = list(csv.DictReader((out / "a.csv").read_text().splitlines()))
    assert len(lines) == 2 * 2 * 4
    assert {line["noise"] for line in lines} == {"gaussian:25", "poisson:30"}
    assert {line["image"] for line in lines} == {"0.png", "2.png"}
    wavelet = tables[0]["methods"][3]
    gains = [float(line["gain"]) for line in lines if line["method"] == "wavelet (sigma 25)"]
    assert wavelet["change"] == pytest.approx(np.mean(gains))
    assert wavelet["worst"] == min(gains) > 0
    psnrs = [float(line["psnr"]) for line in lines if line["method"] == "wavelet (sigma 25)"]
    assert wavelet["mean"]["psnr"] == pytest.approx(np.mean(psnrs))
    assert wavelet["deviation"]["psnr"] == pytest.approx(np.std(psnrs, ddof=1))


def test_a_image_is_the_same_whatever_is_beside_it(image_folder: Path) -> None:
    both = {pair.name: pair for pair in noised(image_folder)}
    (image_folder / "1.png").unlink()
    (image_folder / "sub").mkdir()
    shutil.copy(image_folder / "4.png", image_folder / "sub" / "4.png")
    after = {pair.name: pair for pair in noised(image_folder)}
    assert all(np.array_equal(after[name].noisy, both[name].noisy) for name in ("0.png", "2.png", "3.png", "4.png"))
    assert not np.array_equal(after["sub/4.png"].noisy, after["4.png"].noisy)


def test_seed_and_noise_each_change_the_draw(image_folder: Path) -> None:
    def draw(**options: Any) -> Any:
        pair = next(iter(noised(image_folder, **options)))
        return (pair.noisy - pair.clean) / np.std(pair.noisy - pair.clean)

    first = draw()
    assert np.array_equal(first, draw())
    assert abs(np.mean(first * draw(seed=1))) < 0.05
    assert abs(np.mean(first * draw(spec="gaussian:50"))) < 0.05


def test_noise_is_added_in_float_and_clipped_and_rounded_only_on_request(image_folder: Path) -> None:
    plain, clipped, rounded = (
        next(iter(noised(image_folder, "gaussian:60", **options))).noisy
        for options in ({}, {"clip": True}, {"round": True})
    )
    assert plain.dtype == np.float32
    assert plain.min() < 0
    assert np.array_equal(clipped, plain.clip(0, 1))
    assert rounded.dtype == np.uint8
    assert np.array_equal(rounded, (clipped * 255).round())


def test_the_level_that_was_drawn_is_reported(image_folder: Path) -> None:
    pair = next(iter(noised(image_folder, "gaussian:5-50")))
    level = float(pair.drawn.partition(":")[2])
    assert np.std(pair.noisy - pair.clean) * 255 == pytest.approx(level, rel=0.05)


@pytest.mark.parametrize(("dtype", "white"), [(np.uint8, 255), (np.uint16, 65535)])
def test_gray_and_16_bit(dtype: Any, white: int, tmp_path: Path, tiny: Path) -> None:
    levels = np.linspace(0.2, 0.8, 40 * 48).reshape(40, 48)
    cv2.imwrite(str(tmp_path / "a.png"), (levels * white).astype(dtype))
    out = tmp_path / "out.json"
    run(
        "-m", tiny, "--clean", tmp_path, "--noise", "gaussian:10", "--metrics", "psnr", "--json", out, "--device", "cpu"
    )
    identity = json.loads(out.read_text())["tables"][0]["methods"][0]
    assert identity["mean"]["psnr"] == pytest.approx(-20 * np.log10(10 / 255), abs=0.3)
    assert identity["deviation"] == {"psnr": None}


def test_identity_of_files_is_their_psnr(image_folder: Path, noisy_folder: Path) -> None:
    out = image_folder.with_name("out.json")
    run("--clean", image_folder, "--noisy", noisy_folder, "--metrics", "psnr", "--json", out)
    table = json.loads(out.read_text())["tables"][0]
    sentence = f"5 images of {noisy_folder} against {image_folder}, files as they are; results scored in the depth"
    assert table["protocol"]["sentence"].startswith(sentence)
    for score in table["images"]:
        noisy, clean = (
            cv2.imread(str(next(folder.glob(f"{score['image'][0]}.*")))) for folder in (noisy_folder, image_folder)
        )
        assert score["psnr"] == pytest.approx(cv2.PSNR(noisy, clean), abs=1e-4)
        assert score["gain"] == 0


@pytest.mark.parametrize(
    ("noise", "options", "words"),
    [
        ("poisson:30", {}, "not clipped, not rounded; results scored in float,"),
        ("poisson:30+clip", {}, "clipped where it says so, not rounded;"),
        ("poisson:30", {"clip": True}, "clipped after each component, not rounded;"),
        ("poisson:30", {"round": True}, "clipped at the end, rounded to 8 bits; results scored as 8-bit files would"),
        ("", {}, "files as they are; results scored in float,"),
        ("", {"round": True}, "files as they are; results scored in the depth of the noisy file,"),
    ],
)
def test_the_protocol_says_what_was_done(noise: str, options: dict[str, bool], words: str) -> None:
    assert words in replace(protocol(), **{"noise": noise, "round": False, **options}).sentence()


def test_a_terminal_gets_a_drawn_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    scores = [Score(name, "[bold]", {"psnr": psnr}, 1.0, 0.5, 250_000) for name, psnr in (("a", 30.0), ("b", 31.0))]
    eval_run.show(Table(protocol(), Result(scores, {})), first=True)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["[bold]", "30.50", "+1.00", "+1.00", "0", "1.00", "0.5"] in lines
    assert ["±0.71"] in lines


def test_help_needs_neither_torch_nor_numpy() -> None:
    code = "import sys; from medcli.cli import med; med.main(['eval', '--help'], standalone_mode=False)"
    checked = f"{code}; sys.exit(bool({{'torch', 'numpy', 'rich', 'skimage'}} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", checked], capture_output=True, check=False).returncode == 0


def test_real_pairs_go_in_and_out_as_integers_by_default(image_folder: Path, noisy_folder: Path) -> None:
    seen = []

    def spy(noisy: Any, _values: ValueRange) -> Any:
        seen.append(noisy.dtype)
        return noisy

    for rounded in (True, False):
        pairs = FilePairs(noisy_folder, image_folder, matched(noisy_folder, image_folder)[:1], round=rounded)
        evaluate(pairs, [EvaluatedMethod("spy", spy), baseline("nlm", None)], METRICS)
    assert seen == [np.uint8] * 2 + [np.float32] * 2  # once to warm up, once timed


def test_images_without_a_partner_are_listed(image_folder: Path, noisy_folder: Path) -> None:
    (noisy_folder / "3.png").rename(noisy_folder / "other.png")
    with pytest.raises(InputError, match="2 images have no counterpart") as caught:
        matched(noisy_folder, image_folder)
    assert str(noisy_folder / "other.png") in caught.value.problem
    assert str(image_folder / "3.png") in caught.value.problem


def test_two_candidates_for_one_partner_are_refused(image_folder: Path, noisy_folder: Path) -> None:
    shutil.copy(image_folder / "1.png", image_folder / "1.bmp")
    with pytest.raises(InputError, match="differ only in their extension"):
        matched(noisy_folder, image_folder)


def test_a_pair_of_two_sizes_is_refused(image_folder: Path, noisy_folder: Path) -> None:
    cv2.imwrite(str(noisy_folder / "1.png"), np.zeros((48, 50, 3), np.uint8))
    with pytest.raises(InputError, match=r"1\.png is 50x48 pixels in colour, but .*1\.png is 56x48"):
        run("--clean", image_folder, "--noisy", noisy_folder, "--metrics", "psnr")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Say where the noisy images come from"),
        (["--noise", "gaussian:5", "--noisy", "."], "Say where the noisy images come from"),
        (["--noisy", ".", "--clip"], "files of --noisy are as they are"),
        (["--noise", "gaussian:5", "--round", "--no-clip"], "leave --no-clip out"),
    ],
)
def test_contradictions_are_usage_errors(arguments: list[str], words: str, image_folder: Path) -> None:
    with pytest.raises(OptionError, match=words):
        run("--clean", image_folder, *arguments)


def test_errors_come_before_the_work(image_folder: Path) -> None:
    common = ["--clean", image_folder, "--noise"]
    with pytest.raises(MedcliError, match="no metric called 'psrn'"):
        run(*common, "gaussian:5", "--metrics", "psrn")
    with pytest.raises(MedcliError, match="no noise or pool called 'gausian'"):
        run(*common, "gausian:5", "--metrics", "psnr")
    with pytest.raises(ModelError, match="no model called 'foto'"):
        run(*common, "gaussian:5", "--metrics", "psnr", "-m", "foto")
    with pytest.raises(InputError, match="holds no images"):
        run("--clean", Path(__file__).parent / "papers", "--noise", "gaussian:5", "--metrics", "psnr")


def test_a_failure_names_image_and_method(image_folder: Path) -> None:
    with pytest.raises(InputError, match=r"0\.png, noisy input: Arrays of shape \(48, 56, 3\)"):
        run("--clean", image_folder, "--noise", "gaussian:5", "--metrics", "ms-ssim")


def test_a_noise_that_does_not_fit_is_an_error(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((16, 20), 90, np.uint8))
    pairs = SyntheticPairsFromFiles(tmp_path, [Path("gray.png")], parse("camera"))
    with pytest.raises(InputError, match=r"gray\.png: 'camera' cannot be added to 20x16 pixels in gray"):
        list(pairs)


def test_worst_and_losing_images_are_counted() -> None:
    changes = {"a": 1.2, "b": 0.05, "c": -0.05, "d": -0.5, "e": -0.2}
    scores = [Score(name, "m", {"psnr": 30 + change}, change, 0.5, 250_000) for name, change in changes.items()]
    row = Table(protocol(), Result(scores, {})).rows()[0]
    assert (row.worst, row.losing) == (-0.5, 2)
    assert (row.change, row.seconds, row.speed) == (pytest.approx(0.1), 2.5, 0.5)


def test_perfect_results_are_infinite_and_still_json(image_folder: Path) -> None:
    clean = list(noised(image_folder, "gaussian:0"))[:1]
    table = Table(protocol(), evaluate(clean, [], METRICS))
    content = json.loads(as_json([table]), parse_constant=pytest.fail)
    assert content["tables"][0]["images"][0]["psnr"] == "inf"
    assert content["tables"][0]["images"][0]["gain"] == 0
    assert cells(table)[1] == [[IDENTITY.name, "inf", "-", "-", "-", "-", "-"]]


def protocol() -> Protocol:
    return Protocol("", "noisy", "clean", 1, clip=False, round=True, seed=0, models="")


@pytest.mark.parametrize("noise", [False, True])
@pytest.mark.parametrize("marker", [math.nan, -9999.0, 7.0])
def test_nodata_does_not_count(marker: float, noise: bool, tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    clean = draws.uniform(0, 1, (32, 40)).astype(np.float32)
    noisy = clean + draws.normal(0, 0.05, clean.shape).astype(np.float32)
    counts = np.ones(clean.shape, bool)
    for pixels, rows in ((clean, slice(0, 8)), (noisy, slice(4, 12))):
        pixels[rows, :20] = marker
        counts[rows, :20] = False
    tag = [(42113, 2, 0, "-9999", True)] if marker == -9999 else []
    for name, pixels in (("clean", clean), ("noisy", noisy)):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", pixels, extratags=tag)
    source = ["--noise", "gaussian:25"] if noise else ["--noisy", tmp_path / "noisy"]
    given = ["--range", "0:1", *(["--nodata", 7] if marker == 7 else []), "--csv", tmp_path / "scores.csv"]
    run("--clean", tmp_path / "clean", *source, *given, "--classical", "nlm", "--metrics", "psnr")
    with (tmp_path / "scores.csv").open() as file:
        first, second = csv.DictReader(file)
    error = float(np.mean((noisy.clip(0, 1) - clean)[counts] ** 2, dtype=np.float64))
    expected = 20 * math.log10(255 / 25) if noise else -10 * math.log10(error)
    assert float(first["psnr"]) == pytest.approx(expected, abs=0.8 if noise else 1e-3)
    assert math.isfinite(float(second["psnr"]))


def test_an_image_of_nothing_but_nodata_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((16, 16), np.nan, np.float32))
    with pytest.raises(InputError, match="no pixel that counts"):
        run("--clean", tmp_path, "--noise", "gaussian:25", "--metrics", "psnr")


def test_sigma_is_reported_where_it_is_known() -> None:
    assert known_sigma(Gaussian(25, 25)) == 25
    assert [known_sigma(noise) for noise in (Gaussian(5, 50), parse("gaussian:25+clip"), None)] == [None] * 3


@pytest.mark.parametrize(("channels", "sigma"), [(0, None), (3, 25.0)])
@pytest.mark.parametrize("name", CLASSICAL)
def test_classical_denoisers_gain(name: str, channels: int, sigma: float | None) -> None:
    for package in ("pywt", "skimage", *(["bm3d"] if name == "bm3d" else [])):
        pytest.importorskip(package, reason=f"{package} is not installed")
    clean = np.full((32, 40, 3) if channels else (32, 40), 0.5, np.float32)
    clean[:, 20:] = 0.3
    if channels:
        clean[..., 2] = 0.1
    noisy = clean + np.random.default_rng(0).normal(0, 25 / 255, clean.shape).astype(np.float32)
    restored = classical(name, sigma)(noisy)
    assert restored.shape == clean.shape
    assert psnr(restored.clip(0, 1), clean) > psnr(noisy.clip(0, 1), clean) + 3


def test_the_help_lists_what_is_there() -> None:
    assert set(eval_command.CLASSICAL) == set(CLASSICAL)
    assert all(f"  {name}" in eval_command.HELP or f", {name}" in eval_command.HELP for name in PER_IMAGE)


def test_integers_and_floats_go_to_and_fro() -> None:
    for dtype in (np.uint8, np.uint16):
        levels = np.arange(np.iinfo(dtype).max + 1, dtype=dtype)
        assert np.array_equal(as_stored(as_floats(levels), dtype), levels)
    assert as_stored(np.float32([-0.5, 1.5]), np.uint8).tolist() == [0, 255]
    assert as_stored(np.float32([-0.5, 1.5]), np.float32).tolist() == [-0.5, 1.5]


def test_a_limit_spreads_evenly() -> None:
    names = list(range(10))
    assert thinned(names, 3) == [0, 3, 6]
    assert thinned(names, None) == thinned(names, 99) == names


@pytest.mark.parametrize("quiet", [False, True])
def test_a_model_that_has_to_be_fetched_is_announced(
    quiet: bool, tiny: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def pull(entry: catalog.Entry, say: Callable[[str], None]) -> Path:
        say(f"fetching {entry.id}")
        return tiny

    monkeypatch.setattr(catalog, "pull", pull)
    arguments = ["-m", "nafnet-sidd-32", "--clean", image_folder, "--noise", "gaussian:25", "--limit", 1]
    run(*arguments, "--metrics", "psnr", "--device", "cpu", *(["-q"] if quiet else []))
    printed = capsys.readouterr()
    assert printed.err.count("fetching nafnet-sidd-32") == (not quiet)
    assert "| nafnet-sidd-32 |" in printed.out
