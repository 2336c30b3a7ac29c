"""Denoises an array of any size with a network, in bounded memory."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal

import numpy as np

from medcli.engine import brightness, memory, tiling
from medcli.engine.pixels import Canvas, Pixels, as_canvas, is_eight_bit, read_tile, reflected, write_rows
from medcli.engine.runtimes.base import Coordinates, Floats, Runtime
from medcli.engine.sharpen import MOST as MOST_SHARPENING
from medcli.engine.sharpen import sharpened
from medcli.engine.tiling import Grid, Span
from medcli.errors import DeviceError, MedcliError, ModelError, ran_out
from medcli.images.decoded_image import is_gray
from medcli.images.values import RangeChoice, ValueRange, choose_range, valid_masks

Progress = Callable[[int, int], None]
COPIED_ROWS = 256  # of an image that does not change, at once


class Denoiser:
    """A network ready to denoise arrays of any size.

    runtime: the network on its device, with the strategy by which it is applied; see `medcli.engine.runtimes`.
    tile: largest side of a tile in pixels, 0 for the whole image at once, "auto" for what the free memory holds.
        Only "auto" gives way when memory runs out: the tile is halved, for later images too.
        For a network with global context not below `memory.SMALLEST_GLOBAL_TILE`.
    overlap: pixels that neighbouring tiles share. Unless given: twice the receptive field, at most 64 pixels and at
        most a quarter of the tile.
    range: which values are 0 and 1 for the network: "auto" and "dtype" as in `medcli.images.values`, or a `ValueRange`.
    nodata: pixels of this value in all channels mean nothing, as NaN and infinity do.
    keep_brightness: whether gray images keep their local mean (`medcli.engine.brightness`); not for a network that
        fills in what is missing.
    sharpen: amount of unsharp masking (`medcli.engine.sharpen`), 0 to 2; by its value unless `sharpen_by_value` is off.

    `passed_over` counts the pixels that came back as they were because they meant nothing or lay far outside the range.
    `remark` is what the strategy found in the latest image, such as its noise; empty for most.
    `reported` holds notes that were given and are not repeated.
    `reruns` counts the tiles that came out non-finite in half precision and were run again in fp32.
    Use it from one thread at a time; others may decode and encode meanwhile.
    Raises MedcliError for a tile and overlap that do not fit.
    """

    def __init__(
        self,
        runtime: Runtime,
        *,
        tile: int | Literal["auto"] = "auto",
        overlap: int | None = None,
        range: RangeChoice = "auto",
        nodata: float | None = None,
        keep_brightness: bool = True,
        sharpen: float = 0.0,
        sharpen_by_value: bool = True,
    ) -> None:
        self.runtime, self.device, self.passes = runtime, runtime.device, runtime.passes
        self.channels, self.multiple = runtime.channels, runtime.multiple
        self.context_radius = runtime.context_radius
        self.tile, self.overlap = tile, overlap
        self.range, self.nodata = range, nodata
        self.reruns = self.passed_over = 0
        self.reported, self.remark = set[str](), ""
        self.keep_brightness = keep_brightness
        self.sharpen, self.sharpen_by_value = sharpen, sharpen_by_value
        self._ceiling = sys.maxsize  # the largest tile that memory has not yet proved too small for
        _check_tiles(tile, overlap, self.multiple)
        if not 0 <= sharpen <= MOST_SHARPENING:
            raise MedcliError(f"The image cannot be sharpened by {sharpen}.", f"Give 0 to {MOST_SHARPENING:g}.")

    def __call__(
        self,
        pixels: Pixels,
        *,
        strength: float = 1.0,
        progress: Progress | None = None,
        values: ValueRange | None = None,
        nodata: float | None = None,
    ) -> Pixels:
        """The restored image, an array of the same shape and dtype.

        pixels: (H, W) or (H, W, C), boolean, integers of up to 32 bits, or float. C is the network's number of
            channels, or 1: gray runs as equal channels and comes back as their mean, and equal channels run as gray.
            Integers are rounded and stop at the ends of their type; floats are clipped nowhere.
        strength: 0 gives the input's own pixels, bit for bit, without running the network; 1 the network's output;
            between them, pixels + strength * (output - pixels).
        progress: called with (passes done, all passes) at the start and after each pass of the network over a tile;
            starts anew with smaller tiles.
        values: the range, where it is known already, as that of all pages of a file; else by `range`.
        nodata: of this image; else that of the denoiser.

        Raises InputError or ModelError for an array that does not fit, DeviceError when the tile does not fit the
        memory, ModelError when the network's output is not finite even in fp32.
        """
        bands = self.bands(pixels, strength=strength, progress=progress, values=values, nodata=nodata)
        result, done = np.empty(pixels.shape, pixels.dtype), 0
        for band in bands:
            result[done : done + len(band)] = band
            done += len(band)
        return result

    def bands(
        self,
        pixels: Pixels,
        *,
        strength: float = 1.0,
        progress: Progress | None = None,
        values: ValueRange | None = None,
        nodata: float | None = None,
    ) -> Iterator[Pixels]:
        """As a call, but the result comes in bands of rows, from top to bottom, (rows, W) or (rows, W, C).

        pixels: may be `medcli.images.rows.Rows`, of which then only some rows are in memory.
        """
        layers = as_canvas(pixels, self.channels)
        if not 0 <= strength <= 1:
            raise MedcliError(f"The strength {strength} is out of range.", "Give 0 (nothing changes) to 1 (all of it).")
        if strength == 0:
            return _copied(pixels)
        if layers.shape[2] > 1 and is_gray(layers):
            gray = self.bands(layers[..., :1], strength=strength, progress=progress, values=values, nodata=nodata)
            return (np.repeat(band, layers.shape[2], axis=2) for band in gray)
        nodata = self.nodata if nodata is None else nodata
        values = values or choose_range(self.range, [layers], valid_masks([layers], [nodata]))
        canvas = Canvas(layers, values, nodata).prepared()
        self.passed_over += canvas.passed_over
        if canvas.is_void:
            return _copied(pixels)
        self.remark = self.runtime.fit(partial(_full_rows, canvas), canvas.pixels.shape, values)
        return (band.reshape(-1, *pixels.shape[1:]) for band in self._restarted(canvas, strength, progress))

    def precision_in_force(self, pixels: Pixels) -> str:
        """The number format that a call with `pixels` computes in: fp32, fp16 or bf16."""
        return self.runtime.precision(eight_bit=is_eight_bit(pixels))

    def tile_in_force(self, height: int, width: int) -> int:
        """Largest side in pixels of the tiles for an image of this size; 0 when it runs whole."""
        if self.tile == "auto":
            tile = max(self._smallest(), min(self.runtime.largest_tile(), self._ceiling))
        else:
            tile = self.tile
        return tile if tile and max(height, width) > tile else 0

    def note_on_tiles(self, height: int, width: int) -> str:
        """For an image of this size whose result depends on the size of the tiles; empty for others."""
        tile = self.tile_in_force(height, width)
        if not (tile and self.runtime.global_context):
            return ""
        return f"The model uses statistics of the whole image; in tiles of {tile} pixels the result differs slightly."

    def _restarted(self, canvas: Canvas, strength: float, progress: Progress | None) -> Iterator[Pixels]:
        """Bands of the result. When memory runs out, the rest is made of smaller tiles, if they are worth a try."""
        height, width = canvas.pixels.shape[:2]
        done = 0
        while done < height:
            tile = self.tile_in_force(height, width)
            try:
                for top, band in self._stored(canvas, strength, self._grid(height, width, tile), progress):
                    if top + len(band) > done:
                        fresh = band[max(0, done - top) :]
                        done = top + len(band)
                        yield fresh
            except (MemoryError, RuntimeError) as error:
                if not ran_out(error):
                    raise
                self._ceiling = self._halved(tile or max(height, width), error)
            else:
                return
            self.runtime.release()

    def _stored(
        self, canvas: Canvas, strength: float, grid: Grid, progress: Progress | None
    ) -> Iterator[tuple[int, Pixels]]:
        """Bands of the result as (first row, (rows, W, C) in the image's type)."""
        precision = self.precision_in_force(canvas.pixels)
        passed = _counted(progress, len(grid) * self.passes)

        def tile_at(rows: Span, columns: Span) -> Floats:
            spans = zip((rows, columns), canvas.pixels.shape, strict=False)
            coordinates = Coordinates(*(reflected(span, length) for span, length in spans))
            return self._restored(read_tile(canvas, rows, columns), coordinates, precision, passed)

        def noisy(rows: Span) -> Floats:
            return read_tile(canvas, rows, Span(0, width))[..., 0]

        height, width, channels = canvas.pixels.shape
        bands = tiling.bands(grid, channels, tile_at)
        if self.keep_brightness and channels == 1:
            bands = brightness.kept(bands, noisy, height, width)
        if self.sharpen:
            bands = sharpened(bands, height, self.sharpen, by_value=self.sharpen_by_value)
        for top, band in bands:
            stored = np.empty(band.shape, canvas.pixels.dtype)
            write_rows(band, canvas, slice(top, top + len(band)), stored, strength)
            yield top, stored

    def _restored(self, tile: Floats, coordinates: Coordinates, precision: str, passed: Callable[[], None]) -> Floats:
        """(h, w, C) as read -> restored, the same shape."""
        restored = self.runtime.restore(tile, coordinates, precision, passed)
        if precision != "fp32" and not _finite(restored):
            self.reruns += 1
            restored = self.runtime.restore(tile, coordinates, "fp32", passed)
        if not _finite(restored):
            raise ModelError("The model's output is not finite, in fp32 too.", "Its weights may be damaged.")
        if tile.shape[2] < self.channels:
            first = restored[..., :1]  # the mean, taken from the first, so that equal channels give exactly their value
            restored = first + (restored - first).sum(2, keepdims=True) / np.float32(self.channels)
        return restored

    def _grid(self, height: int, width: int, tile: int) -> Grid:
        overlap = self.overlap
        if overlap is None:
            quarter = tile // 4 // self.multiple * self.multiple
            overlap = min(tiling.default_overlap(self.context_radius, self.multiple), quarter)
        return tiling.plan(
            height, width, tile=tile, overlap=overlap, multiple=self.multiple, context_radius=self.context_radius
        )

    def _smallest(self) -> int:
        smallest = memory.SMALLEST_GLOBAL_TILE if self.runtime.global_context else memory.SMALLEST_TILE
        return max(smallest, 2 * self.multiple, 2 * (self.overlap or 0))

    def _halved(self, tile: int, error: BaseException) -> int:
        if self.tile != "auto":
            size = f"tiles of {tile} pixels" if self.tile else "the whole image at once (tile 0)"
            raise DeviceError(
                f"The memory of {self.device} does not hold {size}.", "Choose a smaller tile, or tile auto."
            ) from error
        if tile // 2 < self._smallest():
            raise DeviceError(
                f"The memory of {self.device} ran out, with tiles of {tile} pixels too.",
                "Close other programs" + (", or choose a smaller tile." if self.runtime.global_context else "."),
            ) from error
        return tile // 2


def _check_tiles(tile: int | str, overlap: int | None, multiple: int) -> None:
    if overlap is not None and overlap < 0:
        raise MedcliError(f"An overlap of {overlap} pixels is out of range.", "Give 0 or more.")
    if isinstance(tile, str) or tile == 0:
        return
    if tile < multiple:
        raise MedcliError(f"A tile of {tile} pixels is too small: this model works in steps of {multiple}.", "Try 512.")
    if overlap and tile // multiple <= -(-overlap // multiple):
        raise MedcliError(
            f"A tile of {tile} pixels is all overlap ({overlap}), in this model's steps of {multiple}.",
            "Give a larger tile or a smaller overlap.",
        )


def _copied(pixels: Pixels) -> Iterator[Pixels]:
    for top in range(0, len(pixels), COPIED_ROWS):
        yield np.array(pixels[top : top + COPIED_ROWS])


def _full_rows(canvas: Canvas, first: int, end: int) -> Floats:
    """(end - first, W, C) of the image as the network sees it."""
    return read_tile(canvas, Span(first, end), Span(0, canvas.pixels.shape[1]))


def _counted(progress: Progress | None, total: int) -> Callable[[], None]:
    """What is to be called after each pass of the network; tiles that are run again do not count."""
    if progress is None:
        return lambda: None
    done = itertools.count(1)
    progress(0, total)
    return lambda: progress(min(next(done), total), total)


def _finite(values: Floats) -> bool:
    # The sum is finite nearly always and fifteen times cheaper than looking at every number.
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(values.sum())) or bool(np.isfinite(values).all())
