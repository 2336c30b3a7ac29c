"""Large images row by row: equal to the same image in memory, in little memory, and nothing left behind."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import medcli.batch.denoise.files
import medcli.images.png
import medcli.images.rows
import medcli.images.tiff_rows
from medcli.archs.unet import ResidualUNet
from medcli.batch.denoise.files import ImageFiles, Settings, Streams
from medcli.batch.denoise.plan import Job
from medcli.cli import med
from medcli.engine.denoiser import Denoiser
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.slider_values import Sliders
from medcli.errors import InputError
from medcli.images import DecodedImage, Page, read, write
from medcli.images.rows import Produced, Rows, rows_in
from medcli.zoo.weights import Card, save

MODULES = (medcli.images.rows, medcli.images.png, medcli.images.tiff_rows, medcli.batch.denoise.files)


@pytest.fixture(autouse=True)
def _small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        monkeypatch.setattr(module, "LARGE", 1)


@pytest.fixture
def weight_file(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    network = ResidualUNet(widths=(8, 16), blocks=(1,), middle=1)
    nn.init.normal_(network.tail.weight, 0, 0.02)
    save(tmp_path / "tiny.safetensors", network, Card("tiny", "unet", network.config))
    return tmp_path / "tiny.safetensors"


def noise(*shape: int, depth: str = "uint8") -> np.ndarray[Any, Any]:
    top = 255 if depth == "uint8" else 65535
    smooth = np.linspace(0.2, 0.8, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    return ((smooth + np.random.default_rng(0).normal(0, 0.1, shape)).clip(0, 1) * top).astype(depth)


TIFFS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 48), "compression": "zlib"},
    "predicted": {"tile": (64, 64), "compression": "lzw", "predictor": True},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "bare": {},
    "big-endian": {"byteorder": ">"},
    "bigtiff": {"bigtiff": True, "tile": (32, 32)},
    "packbits": {"compression": "packbits", "rowsperstrip": 100},
}


@pytest.mark.parametrize("layout", TIFFS)
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(301, 157), (301, 157, 3)], ids=["gray", "colour"])
def test_rows_of_a_tiff_are_its_pixels(tmp_path: Path, layout: str, depth: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, depth=depth)
    photometric = "rgb" if len(shape) == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric=photometric, metadata=None, **TIFFS[layout])
    rows = read(tmp_path / "a.tif", lazy=True).pages[0].pixels
    assert rows_in(rows) is not None
    expect_equal(rows, pixels)


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(301, 157), (301, 157, 3), (1, 1), (64, 3, 3)])
@pytest.mark.parametrize("filter", range(6), ids=["none", "sub", "up", "average", "paeth", "all"])
def test_rows_of_a_png_are_its_pixels(tmp_path: Path, filter: int, depth: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, depth=depth)
    (tmp_path / "a.png").write_bytes(png(pixels, filter))
    rows = read(tmp_path / "a.png", lazy=True).pages[0].pixels
    assert rows_in(rows) is not None
    np.testing.assert_array_equal(read(tmp_path / "a.png").pages[0].pixels, pixels)
    expect_equal(rows, pixels)


def expect_equal(rows: Any, pixels: np.ndarray[Any, Any]) -> None:
    """In windows, out of order, by channel and as a whole."""
    assert (rows.shape, rows.dtype, rows.ndim) == (pixels.shape, pixels.dtype, pixels.ndim)
    assert (rows.size, rows.nbytes, len(rows)) == (pixels.size, pixels.nbytes, len(pixels))
    for top, bottom in ((0, 10), (5, 300), (290, 301), (0, 1), (100, 100)):
        np.testing.assert_array_equal(rows[top:bottom], pixels[top:bottom])
        np.testing.assert_array_equal(rows[top:bottom, 2:90], pixels[top:bottom, 2:90])
    np.testing.assert_array_equal(rows[..., None][3:9], pixels[..., None][3:9])
    if pixels.ndim == 3:
        np.testing.assert_array_equal(rows[..., :1][3:9], pixels[..., :1][3:9])
    np.testing.assert_array_equal(np.asarray(rows), pixels)


def png(pixels: np.ndarray[Any, Any], filter: int) -> bytes:
    """With one filter of the standard for all rows, 5: each in turn; in IDAT chunks of 1,000 bytes."""
    raw = pixels.astype(pixels.dtype.newbyteorder(">")).view(np.uint8).reshape(len(pixels), -1).astype(int)
    step = pixels.dtype.itemsize * (1 if pixels.ndim == 2 else 3)
    up, left, corner = np.zeros_like(raw), np.zeros_like(raw), np.zeros_like(raw)
    up[1:], left[:, step:], corner[1:, step:] = raw[:-1], raw[:, :-step], raw[:-1, :-step]
    guess = left + up - corner
    distances = np.stack([abs(guess - each) for each in (left, up, corner)])
    paeth = np.choose(distances.argmin(0), [left, up, corner])
    predictions = [np.zeros_like(raw), left, up, (left + up) // 2, paeth]
    kinds = np.arange(len(raw)) % 5 if filter == 5 else np.full(len(raw), filter)
    lines = [
        bytes([kind]) + ((raw[y] - predictions[kind][y]) % 256).astype(np.uint8).tobytes()
        for y, kind in enumerate(kinds)
    ]
    packed = zlib.compress(b"".join(lines))
    head = struct.pack(
        ">IIBBBBB", pixels.shape[1], len(raw), 8 * pixels.dtype.itemsize, 2 * (pixels.ndim == 3), 0, 0, 0
    )
    parts = [(b"IDAT", packed[at : at + 1000]) for at in range(0, len(packed), 1000)]
    chunks = [(b"IHDR", head), *parts, (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


def test_only_what_is_needed_is_kept(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(8000, 16), compression="zlib", rowsperstrip=16, metadata=None)
    rows = rows_in(read(tmp_path / "a.tif", lazy=True).pages[0].pixels)
    for top in range(0, 8000, 100):
        assert rows is not None
        rows[top : top + 100]
    assert len(rows._blocks) * rows._heights < 600  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["small", "palette", "alpha", "interlaced", "planar", "float", "one-strip", "pages"])
def test_other_kinds_are_decoded_as_a_whole(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, gray = tmp_path / "a.tif", noise(70, 50)
    if kind == "small":
        for module in MODULES:
            monkeypatch.setattr(module, "LARGE", 70 * 50 + 1)
        tifffile.imwrite(path, gray, metadata=None)
    elif kind in ("palette", "alpha", "interlaced"):
        path = tmp_path / "a.png"
        mode = {"palette": "P", "alpha": "LA", "interlaced": "L"}[kind]
        Image.fromarray(gray).convert(mode).save(path)
        if kind == "interlaced":
            path.write_bytes(_interlaced(gray))
    elif kind == "planar":
        tifffile.imwrite(path, noise(3, 70, 50), photometric="rgb", planarconfig="separate", metadata=None)
    elif kind == "float":
        tifffile.imwrite(path, gray.astype(np.float32), metadata=None)
    elif kind == "one-strip":
        monkeypatch.setattr(medcli.images.tiff_rows, "LARGEST_STRIP", 1000)
        tifffile.imwrite(path, gray, compression="zlib", rowsperstrip=70, metadata=None)
    else:
        tifffile.imwrite(path, np.stack([gray, gray]), metadata=None)
    assert rows_in(read(path, lazy=True).pages[0].pixels) is None


def _interlaced(gray: np.ndarray[Any, Any]) -> bytes:
    """An Adam7 file: each pass is the pixels of a grid, in rows without a filter."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    lines = [b"\0" + row.tobytes() for y, x, down, right in passes for row in gray[y::down, x::right]]
    content = bytearray(png(gray, 0))
    head = struct.pack(">IIBBBBB", gray.shape[1], len(gray), 8, 0, 0, 0, 1)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(b"".join(lines))), (b"IEND", b"")]
    return bytes(content[:8]) + b"".join(
        struct.pack(">I", len(each)) + kind + each + struct.pack(">I", zlib.crc32(kind + each)) for kind, each in chunks
    )


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_damage_is_named(tmp_path: Path, suffix: str) -> None:
    path, pixels = tmp_path / f"a{suffix}", noise(301, 157)
    if suffix == ".tif":
        tifffile.imwrite(path, pixels, compression="zlib", rowsperstrip=64, metadata=None)
        with tifffile.TiffFile(path) as tif:
            at = tif.pages[0].dataoffsets[3]  # type: ignore[union-attr]
        content = bytearray(path.read_bytes())
        content[at : at + 40] = bytes(40)
    else:
        content = bytearray(png(pixels, 0))
        start = content.index(b"IDAT") - 4
        length = struct.unpack(">I", content[start : start + 4])[0]
        content[start + 8 + 500 : start + 8 + 600] = bytes(100)
        checksum = struct.pack(">I", zlib.crc32(bytes(content[start + 4 : start + 8 + length])))
        content[start + 8 + length : start + 12 + length] = checksum
    path.write_bytes(content)
    rows = read(path, lazy=True).pages[0].pixels
    with pytest.raises(InputError, match=f"a{suffix} is damaged"):
        np.asarray(rows)


def run(*arguments: object) -> None:
    ran = CliRunner().invoke(med, ["denoise", *map(str, arguments), "--device", "cpu"])
    assert ran.exit_code == 0, ran.output


@pytest.mark.parametrize("suffix", [".tif", ".png"])
@pytest.mark.parametrize("depth", ["uint8", "uint16"])
@pytest.mark.parametrize("shape", [(301, 157), (301, 157, 3)], ids=["gray", "colour"])
def test_the_command_gives_the_same_pixels(
    tmp_path: Path, weight_file: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, depth: str, shape: tuple[int, ...]
) -> None:
    source, results = tmp_path / f"a{suffix}", []
    pixels = noise(*shape, depth=depth)
    write(DecodedImage([Page(pixels)], suffix[1:].replace("tif", "tiff")), source)
    for name in ("streamed", "whole"):
        target = tmp_path / f"{name}{suffix}"
        run(source, "-o", target, "-m", weight_file, "--tile", 64, "--overlap", 16, "--strength", 0.9)
        results.append(read(target).pages[0].pixels)
        for module in MODULES:
            monkeypatch.setattr(module, "LARGE", 10**9)
    assert (results[0] != pixels).mean() > 0.5
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
def test_a_large_tiff_is_written_with_its_metadata(tmp_path: Path, weight_file: Path, compression: str | None) -> None:
    source, target = tmp_path / "a.tif", tmp_path / "b.tif"
    tags = {"resolution": (300, 300), "resolutionunit": "INCH", "description": "A specimen", "metadata": None}
    tifffile.imwrite(source, noise(301, 157, 3), photometric="rgb", compression=compression, rowsperstrip=50, **tags)
    run(source, "-o", target, "-m", weight_file)
    with tifffile.TiffFile(target) as tif:
        page: Any = tif.pages[0]
        assert page.shape == (301, 157, 3)
        assert page.is_tiled == bool(compression)
        assert page.description == "A specimen"
        assert page.resolution == (300, 300)
        assert page.compression.name.lower().replace("adobe_deflate", "zlib") == str(compression).lower()


class Failing(nn.Module):
    """Fails at the `count`-th tile."""

    channels, multiple, receptive_field = 3, 1, 0

    def __init__(self, count: int, error: Exception) -> None:
        super().__init__()
        self.left, self.error = count, error

    def forward(self, batch: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise self.error
        return batch * 0.5


def test_memory_that_runs_out_on_the_way_repeats_no_row() -> None:
    pixels = noise(300, 90, 3)
    runtime = TorchRuntime(Failing(5, RuntimeError("out of memory")), device="cpu", precision="fp32")
    denoiser = Denoiser(runtime, range="dtype")
    denoiser._ceiling = 128
    bands = list(denoiser.bands(pixels))
    assert len(bands) > 2
    np.testing.assert_array_equal(np.concatenate(bands), np.rint(pixels * 0.5).astype(np.uint8))


def test_a_run_that_fails_half_way_leaves_nothing(tmp_path: Path, weight_file: Path) -> None:
    """The file is damaged below: by then rows were written."""
    source, target = tmp_path / "a.tif", tmp_path / "out" / "a.tif"
    tifffile.imwrite(source, noise(400, 157), compression="zlib", rowsperstrip=64, metadata=None)
    with tifffile.TiffFile(source) as tif:
        at = tif.pages[0].dataoffsets[6]  # type: ignore[union-attr]
    content = bytearray(source.read_bytes())
    content[at : at + 40] = bytes(40)
    source.write_bytes(content)
    target.parent.mkdir()
    ran = CliRunner().invoke(med, ["denoise", str(source), "-o", str(target), "-m", str(weight_file), "--tile", "64"])
    assert ran.exit_code == 1
    assert "a.tif is damaged" in str(ran.exception)
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize(
    ("settings", "target", "streamed"),
    [
        ({}, "b.tif", True),
        ({"sliders": Sliders(strength=0.5)}, "b.tif", True),
        ({"sliders": Sliders(strength=0)}, "b.tif", False),
        ({"sliders": Sliders(luma=0.5)}, "b.tif", False),
        ({"upscale": 2}, "b.tif", False),
        ({"mask": "black"}, "b.tif", False),
        ({"nodata": 3.0}, "b.tif", False),
        ({"encoding": "linear"}, "b.tif", False),
        ({"encoding": "as-is"}, "b.tif", True),
        ({}, "b.jpg", False),
        ({}, "b.png", False),
        ({}, "-", False),
    ],
)
def test_what_needs_the_whole_image_gets_it(
    tmp_path: Path, settings: dict[str, Any], target: str, streamed: bool
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", noise(70, 50), metadata=None)
    job = Job(tmp_path / "a.tif", Path(target) if target == "-" else tmp_path / target)
    files = ImageFiles(Settings("", **settings), Streams(io.BytesIO(), io.BytesIO()))
    image = files.read(job)
    assert files.streams(job, image) is streamed
    assert isinstance(image.pages[0].pixels, Rows if streamed else np.ndarray)


def test_produced_rows_come_once_and_in_order() -> None:
    def bands() -> Iterator[np.ndarray[Any, Any]]:
        buffer = np.empty((4, 2))
        for number in range(3):
            buffer[:] = number
            yield buffer  # the next one overwrites it

    rows = Produced((12, 2), float, bands())
    parts = [rows[0:3], rows[3:3], rows[3:9], rows[9:12]]
    np.testing.assert_array_equal(np.concatenate(parts)[:, 0], np.repeat([0, 1, 2], 4))
