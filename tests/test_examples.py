"""Every command that README.md, docs/ and the help texts show runs exactly as it stands there."""

from __future__ import annotations

import importlib.util
import io
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image
from raw_samples import raw_of, scene
from sample_images import coded
from sample_images import noise as random_pixels
from test_cli_denoise import save_tiny
from test_convert import BASICSR, TINY_NAFNET, foreign
from test_hub_to_picture import checkpoint

from medcli.archs.ludvae import LUDVAE
from medcli.archs.nafnet import NAFNet
from medcli.archs.unet import ResidualUNet
from medcli.cli import med as med_group
from medcli.images import DecodedImage, Metadata, Page
from medcli.noise.notation import parse_pool
from medcli.noise.pool import Pool
from medcli.train import noise_model, run
from medcli.train.adapt import run as adapt
from medcli.train.recipe import Recipe, load
from medcli.zoo import weights

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EARLIER = "goes on from an earlier step of its page"
HUB = "needs the Hugging Face Hub"
EXCEPTIONS = {
    "med models pull nafnet-sidd-32": HUB,
    "med models pull --all": HUB,
    "med models bundle stick/ nafnet-sidd-32": HUB,
    "med models publish run/ --repo me/my-denoiser": HUB,
    "med synth-pairs --from others/ --to noisier/ --model noisy/.noise-model": EARLIER,
    "med synth-pairs --from clean/ --to noisy2/ --like mine2/ -m noisy/.noise-model --minutes 5": EARLIER,
}
NEEDED = {
    "raws/": "rawpy",
    "IMG.dng": "rawpy",
    "IMG.nef": "rawpy",
    "IMG.heic": "pillow_heif",
    "jxl": "pillow_jxl",
    ".exr": "OpenEXR",
}
FOLDERS = "shoot scans clean noisy images first second mine kodak real/clean real/noisy"
SMALL = {"unet": {"widths": [12, 16], "blocks": [1], "middle": 1},
         "split": {"widths": [12, 16], "encoders": [1, 1], "decoders": [1, 1]}}  # fmt: skip
HELP_LINE = re.compile(r"^ +(med .+?)(?: {2,}.*)?$", re.MULTILINE)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def helps(command: click.Command) -> Iterator[str]:
    """The texts of a command and of all below it."""
    yield command.help or ""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            if found := command.get_command(context, name):
                yield from helps(found)


def examples() -> list[str]:
    """All commands, without what a comment says of them, each once."""
    pages = (page.read_text("utf-8") for page in PAGES)
    blocks = [text for page in pages for kind, text in BLOCK.findall(page) if not kind]
    shown = [line.split(" #")[0].strip() for text in blocks for line in text.splitlines()]
    parts = [part.strip() for line in shown for part in line.split("&&")]
    found = [part for part in parts if part.startswith("med ")]
    found += [line for text in helps(med_group) for line in HELP_LINE.findall(text)]
    return list(dict.fromkeys(found))


def image(number: int, size: tuple[int, int] = (40, 48)) -> Any:
    return random_pixels("uint8", (*size, 3), number) // 4 + 90


def fill_folder(root: Path) -> None:
    """Images under all names of the examples."""
    for index, folder in enumerate(FOLDERS.split()):
        for number in range(2):
            place = root / folder / ("sub" if number else "")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image(10 * index + number)).save(place / f"{number}.png")
    names = ("photo.jpg", "photo.png", "noisy.png", "torn.png", "small.png", "cells.png", "reference.png")
    for number, name in enumerate(names):
        Image.fromarray(image(number, (200, 96) if name == "cells.png" else (40, 48))).save(root / name)
    for number in range(8):  # what `med train --pool noise` takes
        Image.fromarray(image(number)).save(root / f"{number}.png")
    Image.fromarray((image(9)[..., 0] > 150).astype("uint8") * 255).save(root / "holes.png")
    for name in ("photo.tif", "scan.tif", "cells.tif", "first.tif"):
        tifffile.imwrite(root / name, image(3).astype("uint16") * 256, photometric="rgb")
    fill_with_photographs(root)
    (root / "docs/samples").mkdir(parents=True)
    shutil.copy(root / "noisy.png", root / "docs/samples")
    (root / "mine.yaml").write_text("{gaussian:9: 3, drop:0.5: 1}")


def fill_with_photographs(root: Path) -> None:
    """Raw files, and formats that need packages of their own."""
    (root / "raws").mkdir()
    for name in ("IMG.dng", "IMG.nef", "raws/IMG.nef"):
        (root / name).write_bytes(raw_of(scene(), shot=0.002))
    Image.fromarray(image(4)).save(root / "raws/IMG.jpg")
    if importlib.util.find_spec("pillow_heif"):
        (root / "IMG.heic").write_bytes(coded(DecodedImage([Page(image(5))], "heic")))
    if importlib.util.find_spec("OpenEXR"):
        linear = Page((image(6) / 255).astype("float32"))
        (root / "render.exr").write_bytes(coded(DecodedImage([linear], "exr", Metadata(transfer="linear"))))


def fill_models(root: Path) -> None:
    """A run that can denoise, fill and enlarge; one of a noise; checkpoints of other programs."""
    pool = parse_pool("corruption")
    assert isinstance(pool, Pool)
    (root / "run").mkdir()
    save_tiny(root / "run/run.safetensors", noises=tuple(str(noise) for _, noise in pool.noises))
    network = LUDVAE(width=8)
    (root / "noise-run").mkdir()
    card = weights.Card(id="noise", architecture="ludvae", config=network.config, method="ludvae")
    weights.save(root / "noise-run/noise.safetensors", network, card)
    for name in ("dncnn.pth", "dncnn_color_blind.pth"):
        (root / name).write_bytes(checkpoint())
    torch.save(foreign(NAFNet(**TINY_NAFNET), BASICSR), root / "NAFNet-SIDD-width32.pth")
    ours = ResidualUNet(**SMALL["unet"])
    torch.save({f"net.{name}": tensor for name, tensor in ours.state_dict().items()}, root / "mine.pth")
    tops = sorted({name.partition(".")[0] for name in ours.state_dict()})
    (root / "names.yaml").write_text("".join(f"net.{top}: {top}\n" for top in tops))
    (root / "net.yaml").write_text("{widths: [12, 16], blocks: [1], middle: 1}")


@pytest.fixture(scope="session")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("examples")
    fill_folder(root)
    fill_models(root)
    made = CliRunner().invoke(med_group, ["synth-pairs", "--from", str(root / "clean"), "--to", str(root / "pairs")])
    assert made.exit_code == 0, made.output
    return root


def quick(recipe: Recipe, *_: object) -> Recipe:
    """In place of the sizes that fit the machine: two steps, of the least work."""
    config = recipe.config or SMALL.get(recipe.architecture, {})
    return replace(recipe, steps=2, patch=32, batch=1, config=config, warmup=1)


@pytest.fixture
def here(furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as the current folder, where trainings are short."""
    place = Path(shutil.copytree(furnished, tmp_path / "here"))
    monkeypatch.chdir(place)
    monkeypatch.setenv("MED_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "fitted", quick)
    monkeypatch.setattr(run, "user_cache_path", lambda _: tmp_path / "cache")
    monkeypatch.setattr(adapt, "STEPS", 2)
    monkeypatch.setattr(noise_model, "load", lambda name: replace(quick(load(name)), config={"width": 8}))
    monkeypatch.setattr(noise_model, "seconds_per_step", lambda *_: 0.1)
    return place


def prepare(command: str) -> None:
    """What an earlier command of the same text leaves."""
    arguments = command.split()
    if "--pairs" in arguments:
        shutil.rmtree("noisy")
        Path("pairs").rename("noisy")
    if "--to" in arguments:
        shutil.rmtree("noisy", ignore_errors=True)
    if arguments[1] == "synth-pairs" and "--model" in arguments:
        shutil.rmtree("run")
        Path("noise-run").rename("run")
    if arguments[1] == "train" and "-o run/" in command:
        shutil.rmtree("run")
    if arguments[1] in ("denoise", "adapt") and "clean/" in arguments:
        shutil.rmtree("clean")
    if "--from-bundle" in arguments:
        assert CliRunner().invoke(med_group, ["models", "bundle", "stick/"]).exit_code == 0


@pytest.mark.parametrize("command", examples())
def test_the_example_runs(command: str, here: Path) -> None:
    for part, package in NEEDED.items():
        if part in command:
            pytest.importorskip(package)
    if command in EXCEPTIONS:
        pytest.skip(EXCEPTIONS[command])
    prepare(command)
    words, pipes = shlex.split(command), {}
    for mark in ("<", ">"):
        if mark in words:
            place = words.index(mark)
            pipes[mark] = words[place + 1]
            del words[place : place + 2]
    given = Path(pipes["<"]).read_bytes() if "<" in pipes else None
    result = CliRunner().invoke(med_group, words[1:], input=io.BytesIO(given) if given else None, prog_name="med")
    assert result.exit_code == 0, f"{result.output}\n{result.exception!r}"
    if ">" in pipes and not pipes[">"].endswith(".json"):
        Image.open(io.BytesIO(result.stdout_bytes)).verify()
    if "-o" in words and "--dry-run" not in words:
        assert Path(words[words.index("-o") + 1]).exists()


def test_there_are_examples_and_no_stale_exceptions() -> None:
    shown = examples()
    assert len(shown) > 50
    assert set(EXCEPTIONS) <= set(shown)
    assert {"med train --pool noise", "med synth-pairs --from clean/ --to noisy/"} <= set(shown)
