"""The engine with tiny networks whose answers are known beforehand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from medcli import cpu
from medcli.engine import memory
from medcli.engine.denoiser import Denoiser
from medcli.engine.device import choose_device, choose_precision
from medcli.engine.runtimes.pytorch import TorchRuntime
from medcli.engine.strategies import Flips, Plain
from medcli.errors import DeviceError, InputError, MedcliError, ModelError

DEPTHS = ("uint8", "uint16", "float16", "float32", "float64")


class Toy(nn.Module):
    """What the engine asks of a network; the answer is the input."""

    def __init__(self, channels: int = 3, multiple: int = 1, receptive_field: int = 0) -> None:
        super().__init__()
        self.channels, self.multiple, self.receptive_field = channels, multiple, receptive_field
        self.sizes: list[tuple[int, int]] = []

    def forward(self, batch: Tensor) -> Tensor:
        assert batch.shape[1] == self.channels
        assert batch.shape[2] % self.multiple == batch.shape[3] % self.multiple == 0
        self.sizes.append((batch.shape[2], batch.shape[3]))
        return self.answer(batch)

    def answer(self, batch: Tensor) -> Tensor:
        return batch


class Halve(Toy):
    def answer(self, batch: Tensor) -> Tensor:
        return batch / 2


class Blur(Toy):
    """Two 3x3 box blurs: a receptive field of 2."""

    def __init__(self) -> None:
        super().__init__(receptive_field=2)

    def answer(self, batch: Tensor) -> Tensor:
        return F.avg_pool2d(F.avg_pool2d(batch, 3, 1, 1), 3, 1, 1)


class Pyramid(Toy):
    """Down, blur, up: its answer depends on where the image's grid of 4x4 blocks lies. A receptive field of 7."""

    def __init__(self) -> None:
        super().__init__(multiple=4, receptive_field=7)
        generator = torch.Generator().manual_seed(1)
        self.down = nn.Parameter(torch.randn(8, 3, 4, 4, generator=generator) / 8)
        self.mix = nn.Parameter(torch.randn(8, 8, 3, 3, generator=generator) / 8)
        self.up = nn.Parameter(torch.randn(8, 3, 4, 4, generator=generator) / 8)

    def answer(self, batch: Tensor) -> Tensor:
        blocks = F.conv2d(F.conv2d(batch, self.down, stride=4), self.mix, padding=1)
        return batch + F.conv_transpose2d(blocks, self.up, stride=4)


class Lopsided(Toy):
    """Each pixel becomes its left neighbour: as far from equivariant as can be."""

    def answer(self, batch: Tensor) -> Tensor:
        return batch.roll(1, dims=3)


class Greedy(Toy):
    """Runs out of memory above `room` pixels, with the words of one of the allocators."""

    def __init__(self, room: int, error: type[Exception], words: str) -> None:
        super().__init__()
        self.room, self.error, self.words = room, error, words

    def answer(self, batch: Tensor) -> Tensor:
        if batch.shape[2] * batch.shape[3] > self.room:
            raise self.error(self.words)
        return batch


class Overflowing(Toy):
    """Non-finite in half precision wherever the input is bright; `always`: in fp32 as well."""

    def __init__(self, always: bool = False) -> None:
        super().__init__()
        self.always = always

    def answer(self, batch: Tensor) -> Tensor:
        half = torch.is_autocast_enabled("cpu")
        return torch.where((batch > 0.9) & torch.tensor(half or self.always), torch.inf, batch)


def engine(network: Toy, **options: Any) -> Denoiser:
    """The network's own answers: what a gray image keeps of its brightness is in test_brightness.py."""
    names = ("strategy", "device", "precision", "half_safe")
    own = {"device": "cpu", "precision": "fp32"} | {name: options.pop(name) for name in names if name in options}
    return Denoiser(TorchRuntime(network, **own), **{"keep_brightness": False, **options})


def noise(*shape: int, depth: str = "float32") -> np.ndarray[Any, Any]:
    floats = np.random.default_rng(0).random(shape)
    scale = {"uint8": 255, "uint16": 65535}.get(depth)
    return np.asarray(np.round(floats * scale) if scale else floats, depth)


# --- the identity, and what a dtype means


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_identity_survives_any_tiling_bit_for_bit(data: st.DataObject) -> None:
    depth = data.draw(st.sampled_from(["uint8", "uint16", ">u2", "float16", "float32", ">f4"]))
    shape = data.draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70))
    shape += data.draw(st.sampled_from([(), (1,), (3,)]))
    pixels = data.draw(hnp.arrays(depth, shape))
    multiple = data.draw(st.sampled_from([1, 2, 16]))
    network = Toy(3, multiple, receptive_field=data.draw(st.sampled_from([0, 3, 200])))
    overlap = data.draw(st.sampled_from([None, 0, 5, 16]))
    tile = data.draw(st.sampled_from([0, 32, 33, 48]))
    strategy = data.draw(st.sampled_from([Plain(), Flips()]))
    restored = engine(network, strategy=strategy, tile=tile, overlap=overlap)(pixels)
    assert restored.dtype == pixels.dtype
    np.testing.assert_array_equal(restored, pixels)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (7, 3, 1), (40, 90, 3), (2, 700, 3)])
def test_shape_and_dtype_return(depth: str, shape: tuple[int, ...]) -> None:
    pixels = noise(*shape, depth=depth)
    restored = engine(Halve(multiple=16), tile=48)(pixels)
    assert (restored.shape, restored.dtype) == (pixels.shape, pixels.dtype)
    np.testing.assert_allclose(restored, pixels / 2, rtol=1e-3, atol=0.51 if "u" in depth else 0)


def test_a_range_of_the_dtype_does_not_depend_on_the_maximum() -> None:
    seen: list[float] = []

    class NoiseStatistics(Toy):
        def answer(self, batch: Tensor) -> Tensor:
            seen.append(float(batch.max()))
            return batch

    for depth, value in (("uint8", 51), ("uint16", 51), ("float32", 0.1)):
        engine(NoiseStatistics(), range="dtype")(np.full((4, 4), value, depth))
    assert seen == pytest.approx([51 / 255, 51 / 65535, 0.1])


def test_integers_are_rounded_and_clipped() -> None:
    class Add(Toy):
        def answer(self, batch: Tensor) -> Tensor:
            return batch + torch.tensor([-2.0, 0.4 / 255, 2.0])[:, None, None]

    assert engine(Add())(np.full((2, 2, 3), (10, 10, 11), np.uint8))[0, 0].tolist() == [0, 10, 255]


def test_floats_outside_the_range_are_clipped_neither_before_nor_after() -> None:
    pixels = np.array([[-0.75, 0.5, 2.0]], np.float32)
    np.testing.assert_array_equal(engine(Halve(), range="dtype")(pixels), pixels / 2)


def test_float64_is_blended_in_float64() -> None:
    pixels = np.array([[0.1, 0.2]])
    restored = engine(Toy())(pixels, strength=2**-20)
    np.testing.assert_allclose(restored, pixels, rtol=1e-13, atol=0)


HOLES = [np.nan, np.inf, -np.inf, -9999.0, 1e30, np.float32(-3.4028235e38)]


@pytest.mark.parametrize("value", HOLES)
@pytest.mark.parametrize("tile", [0, 16])
def test_what_means_nothing_returns_and_its_neighbours_do_not_suffer(value: float, tile: int) -> None:
    """In a smooth image a hole is filled by what is around it, so that nobody beside it sees that it was there."""
    smooth = np.linspace(0.2, 0.8, 60, dtype=np.float32)[:, None, None].repeat(40, 1).repeat(3, 2)
    pixels = smooth.copy()
    pixels[4, 5, 0], pixels[30:50, 10:30], pixels[20, 3], pixels[59, 39] = value, value, value, value
    lost = (pixels != smooth).any(axis=2)
    denoiser = engine(Blur(), tile=tile, nodata=float(value))
    restored, expected = denoiser(pixels), denoiser(smooth)
    np.testing.assert_array_equal(restored[lost], pixels[lost])
    np.testing.assert_allclose(restored[~lost], expected[~lost], atol=0.01)
    assert denoiser.passed_over == np.count_nonzero(lost)


def test_nodata_is_not_seen_and_no_result_becomes_it() -> None:
    pixels = np.full((20, 20), 3000, np.int16)
    pixels[::2], pixels[5, 5] = 3100, 2900
    pixels[:, 15:] = -32768
    restored = engine(Blur(), nodata=-32768)(pixels)
    np.testing.assert_array_equal(restored[:, 15:], pixels[:, 15:])
    assert restored[:, :15].min() >= 2900
    assert restored[:, :15].max() <= 3100
    dark = np.array([[0, 0, 5, 2, 5, 1]], np.uint8)
    assert engine(Halve(), nodata=1)(dark).tolist() == [[0, 0, 2, 2, 2, 1]]  # 2 would have become 1
    assert engine(Toy())(np.full((4, 4), np.nan)).shape == (4, 4)


def test_holes_are_filled_alike_whatever_the_tiles() -> None:
    pixels = noise(90, 70)
    pixels[np.random.default_rng(1).random(pixels.shape) < 0.2] = np.nan
    pixels[30:60, 20:50] = 1e9
    whole, tiled = (engine(Halve(receptive_field=0), tile=tile, overlap=0)(pixels) for tile in (0, 16))
    np.testing.assert_array_equal(whole, tiled)
    assert np.isnan(whole).sum() == np.isnan(pixels).sum()


@pytest.mark.parametrize("depth", ["int8", "int16", "int32", "uint32", "bool", "float64"])
def test_every_type_survives_strength_0_and_a_network_that_changes_nothing(depth: str) -> None:
    rng = np.random.default_rng(0)
    if depth == "bool":
        pixels = rng.random((40, 30)) > 0.5
    elif depth == "float64":
        pixels = rng.random((40, 30)) * 1e12 + 1 / 3
    else:
        kind = np.iinfo(depth)
        pixels = rng.integers(kind.min, kind.max, (40, 30), depth, endpoint=True)
    np.testing.assert_array_equal(engine(Halve())(pixels, strength=0), pixels)
    np.testing.assert_array_equal(engine(Toy(), tile=16)(pixels), pixels)


def test_views_and_read_only_arrays_are_taken_and_left_alone() -> None:
    base = noise(40, 50, 3, depth="uint8")
    view = base[::-2, ::-1]
    view.flags.writeable = False
    before = view.copy()
    np.testing.assert_array_equal(engine(Toy(), tile=16)(view), before)
    np.testing.assert_array_equal(view, before)


def test_gray_runs_as_equal_channels_and_comes_back_as_their_mean() -> None:
    class Tint(Toy):
        def answer(self, batch: Tensor) -> Tensor:
            assert torch.equal(batch[:, 0], batch[:, 2])
            return batch + torch.tensor([0.1, 0.2, 0.6])[:, None, None]

    gray = noise(9, 8)
    np.testing.assert_allclose(engine(Tint())(gray), gray + 0.3, rtol=1e-6)
    assert engine(Tint())(gray[..., None]).shape == (9, 8, 1)


def test_a_gray_network_takes_gray() -> None:
    gray = noise(9, 8, depth="uint8")
    np.testing.assert_array_equal(engine(Toy(channels=1))(gray), gray)


@pytest.mark.parametrize(
    ("network", "pixels", "error", "word"),
    [
        (Toy(), np.zeros((4, 4, 4), np.uint8), ModelError, "alpha"),
        (Toy(), np.zeros((4, 4, 7), np.uint8), ModelError, "7 channels"),
        (Toy(channels=1), np.zeros((4, 4, 3), np.uint8), ModelError, "gray"),
        (Toy(), np.zeros((4, 4), np.int64), InputError, "int64"),
        (Toy(), np.zeros((4, 4), complex), InputError, "complex128"),
        (Toy(), np.zeros((0, 4), np.uint8), InputError, "shape"),
        (Toy(), np.zeros((2, 4, 4, 3), np.uint8), InputError, "page"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(
    network: Toy, pixels: np.ndarray[Any, Any], error: type[MedcliError], word: str
) -> None:
    with pytest.raises(error, match=word) as caught:
        engine(network)(pixels, strength=0)
    assert caught.value.hint


def test_beyond_its_border_the_image_is_mirrored_without_repeating_the_edge() -> None:
    seen: list[Tensor] = []

    class NoiseStatistics(Toy):
        def answer(self, batch: Tensor) -> Tensor:
            seen.append(batch[0, 0])
            return batch

    engine(NoiseStatistics(multiple=8))(np.array([[0, 0.5, 1]], np.float32))
    assert seen[0].tolist() == [[0, 0.5, 1, 0.5, 0, 0.5, 1, 0.5]] * 8


# --- strength


@pytest.mark.parametrize("depth", DEPTHS)
def test_strength_0_is_the_input_without_a_run(depth: str) -> None:
    network, pixels = Halve(), noise(20, 30, 3, depth=depth)
    restored = engine(network)(pixels, strength=0)
    assert restored.tobytes() == pixels.tobytes()
    assert restored is not pixels
    assert network.sizes == []


@pytest.mark.parametrize("depth", DEPTHS)
def test_strength_one_half_lies_half_way(depth: str) -> None:
    pixels = noise(40, 40, 3, depth=depth)
    restored = engine(Halve(), tile=32)(pixels, strength=0.5)
    np.testing.assert_allclose(restored, pixels * 0.75, rtol=1e-3, atol=0.51 if "u" in depth else 0)


def test_a_strength_outside_the_range_is_refused() -> None:
    with pytest.raises(MedcliError, match=r"strength 1\.5"):
        engine(Toy())(noise(4, 4), strength=1.5)


# --- tiled equals whole


@pytest.mark.parametrize("network", [Blur(), Pyramid()])
@pytest.mark.parametrize("strategy", [Plain(), Flips()])
def test_tiled_equals_whole_where_the_overlap_is_twice_the_receptive_field(network: Toy, strategy: Any) -> None:
    pixels = noise(101, 147, 3)
    whole = engine(network, strategy=strategy, tile=0)(pixels)
    tiled = engine(network, strategy=strategy, tile=64)(pixels)
    assert max(network.sizes[-1]) <= 64
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-6)


def test_an_overlap_that_is_too_small_shows() -> None:
    pixels = noise(101, 147, 3)
    whole, tiled = engine(Blur(), tile=0)(pixels), engine(Blur(), tile=40, overlap=0)(pixels)
    assert np.abs(whole - tiled).max() > 1e-2


def test_a_long_thin_image_is_one_row_of_tiles() -> None:
    pixels = noise(6, 5000, depth="uint8")
    network = Toy(multiple=4)
    np.testing.assert_array_equal(engine(network, tile=512)(pixels), pixels)
    assert {height for height, _ in network.sizes} == {8}
    assert max(width for _, width in network.sizes) <= 512


def test_progress_counts_every_tile() -> None:
    seen: list[tuple[int, int]] = []
    engine(Toy(), tile=16, overlap=0)(noise(30, 30), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)]


def test_progress_counts_every_pass_of_every_tile() -> None:
    seen: list[tuple[int, int]] = []
    denoiser = engine(Toy(), strategy=Flips(), tile=16, overlap=0)
    denoiser(noise(30, 16), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 16) for done in range(17)]
    denoiser(noise(30, 16))
    assert len(seen) == 17


def test_an_interrupt_stops_before_the_next_tile() -> None:
    network = Toy()

    def interrupt(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine(network, tile=16)(noise(64, 64), progress=interrupt)
    assert len(network.sizes) == 2


@pytest.mark.parametrize("options", [{"tile": 8}, {"tile": -16}, {"tile": 32, "overlap": 32}, {"overlap": -1}])
def test_tiles_and_overlaps_that_cannot_be_get_a_error(options: dict[str, int]) -> None:
    with pytest.raises(MedcliError):
        engine(Toy(multiple=16), **options)


# --- memory

WORDS = [
    (torch.OutOfMemoryError, "CUDA out of memory."),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: not enough memory: you tried to allocate 1"),
    (RuntimeError, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes. Error code 12"),
    (RuntimeError, "MPS backend out of memory (MPS allocated: 1 GB)"),
    (RuntimeError, "could not create a primitive"),
    (RuntimeError, "[enforce fail at alloc_cpu.cpp:118] err == 0. posix_memalign: Cannot allocate memory"),
    (MemoryError, "Unable to allocate 1 GiB for an array"),
]


@pytest.mark.parametrize(("error", "words"), WORDS)
def test_auto_halves_the_tile_when_memory_runs_out_and_remembers(error: type[Exception], words: str) -> None:
    network = Greedy(130 * 130, error, words)
    denoise, pixels = engine(network), noise(500, 500, depth="uint8")
    assert denoise.tile_in_force(500, 500) == 0
    np.testing.assert_array_equal(denoise(pixels), pixels)
    assert denoise.tile_in_force(500, 500) == 125
    network.sizes.clear()
    denoise(pixels)
    assert max(network.sizes[0]) <= 125


def test_auto_gives_up_with_a_error() -> None:
    with pytest.raises(DeviceError, match="ran out"):
        engine(Greedy(1, *WORDS[0]))(noise(500, 500))


@pytest.mark.parametrize(("tile", "named"), [(256, "256 pixels"), (0, "whole image")])
def test_an_explicit_tile_is_never_overridden(tile: int, named: str) -> None:
    network = Greedy(100, *WORDS[1])
    with pytest.raises(DeviceError, match=named):
        engine(network, tile=tile)(noise(500, 500))
    assert len(network.sizes) == 1


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        engine(Greedy(1, RuntimeError, "shapes do not match"))(noise(500, 500))


def test_auto_follows_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 64 << 30)
    assert engine(Toy()).tile_in_force(9000, 9000) == 768
    monkeypatch.setattr(memory, "free_bytes", lambda: 1 << 30)
    assert engine(Toy()).tile_in_force(9000, 9000) == 512
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    assert engine(Toy(multiple=16)).tile_in_force(9000, 9000) == memory.SMALLEST_TILE


class Centred(Toy):
    """Takes the mean of the image away."""

    global_context = True

    def answer(self, batch: Tensor) -> Tensor:
        return batch - batch.mean((2, 3), keepdim=True)


def test_networks_with_global_context_keep_large_tiles_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 0)
    assert engine(Centred()).tile_in_force(9000, 9000) == memory.SMALLEST_GLOBAL_TILE
    assert engine(Centred(), tile=64).tile_in_force(9000, 9000) == 64
    assert "in tiles of 64 pixels" in engine(Centred(), tile=64).note_on_tiles(65, 10)
    for quiet in (engine(Centred(), tile=64), engine(Centred(), tile=0), engine(Toy(), tile=64)):
        assert quiet.note_on_tiles(64, 64) == ""
    assert engine(Toy(), tile=64).note_on_tiles(65, 10) == ""
    network = Centred()
    monkeypatch.setattr(network, "answer", Greedy(1, MemoryError, "").answer)
    with pytest.raises(DeviceError, match="tiles of 256 pixels too") as caught:
        engine(network)(noise(500, 500))
    assert "smaller tile" in caught.value.hint


def room_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: dict[str, str]) -> int:
    """Bytes left in control groups with these files."""
    monkeypatch.setattr(cpu, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(cpu, "CONTROL_GROUPS", tmp_path / "root")
    (tmp_path / "own").write_text(own)
    for name, content in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(content)
    return memory.container_room()


STAT = "cache 9\ninactive_file 50\ntotal_inactive_file 70\n"
FIRST = "9:name=systemd:/x\n4:cpu,memory:/a/b\n0::/\n"


@pytest.mark.parametrize(
    ("own", "files", "room"),
    [
        ("0::/\n", {"memory.max": "1000", "memory.current": "600", "memory.stat": STAT}, 450),
        ("0::/\n", {"memory.max": "max", "memory.high": "900", "memory.current": "600"}, 300),
        ("0::/\n", {"memory.max": "max", "memory.high": "max", "memory.current": "600"}, sys.maxsize),
        ("0::/\n", {"memory.max": "500", "memory.current": "600"}, 0),
        ("0::/a/b\n", {"a/memory.max": "800", "a/memory.current": "600", "a/b/memory.current": "1"}, 200),
        ("0::/outside\n", {"memory.max": "800", "memory.current": "600"}, 200),
        (
            FIRST,
            {
                "memory/a/b/memory.limit_in_bytes": "1000",
                "memory/a/b/memory.usage_in_bytes": "400",
                "memory/a/b/memory.stat": STAT,
                "memory/a/memory.limit_in_bytes": "9223372036854771712",
                "memory/a/memory.usage_in_bytes": "5000",
            },
            670,
        ),
        (FIRST, {"memory/memory.limit_in_bytes": "900", "memory/memory.usage_in_bytes": "400"}, 500),
        ("", {}, sys.maxsize),
    ],
)
def test_the_tightest_control_group_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, files: dict[str, str], room: int
) -> None:
    assert room_left(monkeypatch, tmp_path, own, files) == room


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux counts addresses as ulimit says")
@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_a_limit_of_the_process_counts(kind: str) -> None:
    code = (
        "import resource, psutil, torch\nfrom medcli.engine import memory\n"
        "used = psutil.Process().memory_info()\n"
        f"taken = used.vms if '{kind}' == 'RLIMIT_AS' else used.data\n"
        f"resource.setrlimit(resource.{kind}, (taken + (256 << 20), -1))\n"
        "print(memory.free_bytes() >> 20, memory.comfortable_tile(memory.free_bytes()))"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    room, tile = map(int, ran.stdout.split())
    assert 200 <= room <= 256
    assert tile <= 256


CHILD = """
import resource, sys
import numpy as np
sys.path[:0] = {path!r}
from test_engine import Toy, engine
pixels = np.full((3000, 4000, 3), 90, np.uint8)
denoise = engine(Toy(multiple=16, receptive_field=200), tile=256)
denoise(pixels[:300, :300])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert denoise(pixels).min() == 90
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is counted in kB on Linux only")
def test_12_megapixels_add_the_result_and_one_band() -> None:
    code = CHILD.format(path=[str(Path(__file__).parent), *filter(None, sys.path)])
    added = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    result, band = 36e6, 256 * 4000 * 3 * 4
    assert added * 1024 < result + band + 20e6  # a second image, even of bytes, would not fit


# --- precision


def test_a_tile_that_is_not_finite_in_half_precision_is_run_again() -> None:
    pixels = np.zeros((60, 60), np.uint8)
    pixels[3, 3] = 255
    denoise = engine(Overflowing(), precision="bf16", tile=32, overlap=0)
    np.testing.assert_array_equal(denoise(pixels), pixels)
    assert denoise.reruns == 1


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_an_answer_that_is_never_finite_is_refused(precision: str) -> None:
    with pytest.raises(ModelError, match="not finite"):
        engine(Overflowing(always=True), precision=precision)(np.full((8, 8), 255, np.uint8))


def test_half_precision_is_for_convolutions_and_the_input_is_added_in_fp32() -> None:
    seen: list[torch.dtype] = []

    class Residual(Toy):
        def answer(self, batch: Tensor) -> Tensor:
            noise = F.conv2d(batch, torch.zeros(3, 3, 1, 1))
            seen.append(noise.dtype)
            return batch + noise

    pixels = noise(16, 16, 3, depth="uint16")
    np.testing.assert_array_equal(engine(Residual(), precision="bf16")(pixels), pixels)
    assert seen == [torch.bfloat16]


def test_auto_takes_bf16_on_a_cpu_that_has_it_for_8_bits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    here = torch.device("cpu")
    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: True)
    assert choose_precision("auto", here, half_safe=True, eight_bit=True) == torch.bfloat16
    assert choose_precision("auto", here, half_safe=True, eight_bit=False) == torch.float32
    assert choose_precision("auto", here, half_safe=False, eight_bit=True) == torch.float32
    assert engine(Toy(), precision="auto").precision_in_force(noise(4, 4, depth="uint8")) == "bf16"
    assert engine(Toy(), precision="auto").precision_in_force(noise(4, 4, depth="uint16")) == "fp32"
    monkeypatch.setattr(cpu, "multiplies_bf16", lambda: False)
    assert choose_precision("auto", here, half_safe=True, eight_bit=True) == torch.float32


def test_auto_takes_fp16_on_a_gpu_where_the_model_bears_it() -> None:
    for gpu in (torch.device("cuda"), torch.device("mps")):
        assert choose_precision("auto", gpu, half_safe=True) == torch.float16
        assert choose_precision("auto", gpu, half_safe=False) == torch.float32


def test_an_explicit_precision_is_given_whatever_the_model_says() -> None:
    cpu = torch.device("cpu")
    given_ = [choose_precision(spec, cpu, half_safe=False) for spec in ("fp32", "fp16", "bf16")]
    assert given_ == [torch.float32, torch.float16, torch.bfloat16]
    with pytest.raises(DeviceError, match="fp8"):
        choose_precision("fp8", cpu, half_safe=True)


# --- devices


def pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: int = 0, mps: bool = False, build: str | None = "12.6") -> None:
    monkeypatch.setattr(torch.version, "cuda", build)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index=None: "Pretended GPU")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(("cuda", "mps", "chosen"), [(1, True, "cuda"), (0, True, "mps"), (0, False, "cpu")])
def test_auto_prefers_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: bool, chosen: str
) -> None:
    pretend(monkeypatch, cuda=cuda, mps=mps)
    assert choose_device("auto") == torch.device(chosen)


@pytest.mark.parametrize(
    ("spec", "world", "word"),
    [
        ("cuda", {"build": None}, "CPU-only build"),
        ("cuda", {}, "driver"),
        ("cuda:7", {"cuda": 2}, r"cuda:1 \(Pretended GPU\)"),
        ("mps", {}, "MPS"),
        ("gpu", {}, "'gpu'"),
        ("cuda:x", {"cuda": 1}, "'cuda:x'"),
        ("cpu:1", {}, "'cpu:1'"),
    ],
)
def test_a_device_that_is_not_there_is_refused_with_a_hint(
    monkeypatch: pytest.MonkeyPatch, spec: str, world: dict[str, Any], word: str
) -> None:
    pretend(monkeypatch, **world)
    with pytest.raises(DeviceError, match=word) as caught:
        choose_device(spec)
    assert caught.value.hint


def test_an_operation_that_the_device_lacks_is_reported_not_moved() -> None:
    network = Greedy(1, NotImplementedError, "The operator 'aten::x' is not currently implemented for the MPS device.")
    with pytest.raises(DeviceError, match="aten::x"):
        engine(network)(noise(8, 8))


# --- strategies


def turns(image: Tensor) -> list[Tensor]:
    return [torch.rot90(p, k, (2, 3)) for p in (image, image.flip(3)) for k in range(4)]


def test_flips_are_the_mean_of_eight() -> None:
    image, network = torch.rand(1, 3, 16, 24), Lopsided()
    shifted = [network(t) for t in turns(image)]
    back = [torch.rot90(s, -k, (2, 3)) for k, s in enumerate(shifted[:4])]
    back += [torch.rot90(s, -k, (2, 3)).flip(3) for k, s in enumerate(shifted[4:])]
    network.sizes.clear()
    assert torch.allclose(Flips()(network, image), torch.stack(back).mean(0), atol=1e-6)
    assert len(network.sizes) == Flips.passes == 8


def test_flips_turn_with_the_image_and_plain_does_not() -> None:
    image, network = torch.rand(1, 3, 16, 24), Pyramid()
    flips = [Flips()(network, turned) for turned in turns(image)]
    assert all(torch.allclose(answer, turned, atol=1e-6) for answer, turned in zip(flips, turns(flips[0]), strict=True))
    plain = Plain()(network, image.flip(3))
    assert not torch.allclose(plain, Plain()(network, image).flip(3), atol=1e-3)
    assert Plain.passes == 1
