"""Camera raw files: LibRaw reads and develops them; noise is removed from the mosaic before, or from the result.

The mosaic of a 2 x 2 pattern becomes two images of half the size, of red, one of the two greens, and blue,
white-balanced and in the curve of sRGB: so a network sees what it knows. Values below black stay below 0. Red and blue
come back as the mean of both.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medcli.errors import InputError, OutputError
from medcli.images import exif, raw_exif
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.development import Development
from medcli.images.encoding import D65, from_perceptual, srgb_curve, to_perceptual
from medcli.images.plugins import plugin
from medcli.images.raster import bands
from medcli.images.source import ImageBytes

MOSAIC = b"mosaic"  # kind of the block of `Metadata.native` that holds the whole file, where pages are its planes
GAINS = b"gains"  # the multipliers of red, green and blue there, and of the second green, float64
RED, GREEN, BLUE, SECOND_GREEN = range(4)
FULL = 65535
CURVES = {"srgb": (2.4, 12.92), "p3": (2.4, 12.92), "adobe": (2.19921875, 0.0), "prophoto": (1.8, 0.0)}
D50 = (0.3457, 0.3585, 1.0)
PRIMARIES = {
    "p3": [0.680, 0.320, 1.0, 0.265, 0.690, 1.0, 0.150, 0.060, 1.0],
    "adobe": [0.64, 0.33, 1.0, 0.21, 0.71, 1.0, 0.15, 0.06, 1.0],
    "prophoto": [0.734699, 0.265301, 1.0, 0.159597, 0.840403, 1.0, 0.036598, 0.000105, 1.0],
}

Array = NDArray[Any]


def decode(source: ImageBytes) -> DecodedImage:
    """The planes of the mosaic as two pages, float32, or one developed page, uint16, as `source.development` says.

    Raises InputError for a damaged file, and for one that LibRaw does not know.
    """
    data, how = source.content(), source.development
    with opened(data, source) as raw:
        sizes = raw.sizes
        source.admit(sizes.width, sizes.height)
        block = raw_exif.block(data, sizes.flip)
        meta = Metadata(exif=block and exif.tidied(block, sizes.width, sizes.height), development=how)
        image = DecodedImage([], "raw", meta)
        if how.stage == "mosaic" and is_bayer(raw):
            gain = gains(raw, how)
            meta.native = ((MOSAIC, data), (GAINS, gain.tobytes()))
            image.pages = [Page(plane) for plane in planes(normalised(raw), pattern(raw), gain)]
            return image
        if how.stage == "mosaic":
            image.remark("The sensor has no mosaic of 2 x 2 pixels: noise was removed after development.")
        image.pages = [Page(developed_pixels(raw, how))]
        meta.icc = profile(how.space)
    return image


@contextmanager
def opened(data: bytes, source: ImageBytes | None = None) -> Iterator[Any]:
    """The raw file, unpacked. Raises InputError, or OutputError without a source, where LibRaw gives up."""
    rawpy = plugin("rawpy", "rawpy", "A raw file", InputError if source else OutputError, "raw")
    raw = rawpy.RawPy()
    try:
        raw.open_buffer(io.BytesIO(data))
        raw.unpack()
        yield raw
    except rawpy.LibRawError as error:
        if source is None:
            raise OutputError("The raw file cannot be developed.", "It may be damaged.") from None
        if isinstance(error, rawpy.LibRawFileUnsupportedError):
            raise source.unfit("LibRaw does not know this kind of raw file", "Develop it elsewhere first.") from None
        raise source.damaged("it cannot be unpacked") from None
    finally:
        raw.close()


def opens(data: bytes) -> bool:
    """Whether LibRaw opens and unpacks the file."""
    try:
        with opened(data):
            return True
    except OutputError:
        return False


def is_bayer(raw: Any) -> bool:
    """Whether there is a mosaic of 2 x 2 pixels in three colours."""
    found = raw.raw_image_visible if raw.raw_type.name == "Flat" else None
    if found is None or raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
        return False
    return bool(raw.num_colors == 3 and sorted(pattern(raw).ravel()) == [RED, GREEN, BLUE, SECOND_GREEN])


def pattern(raw: Any) -> Array:
    """(2, 2) colour of each place of the visible mosaic: RED, GREEN, BLUE, SECOND_GREEN."""
    found = np.array(raw.raw_colors_visible[:2, :2], int)
    greens = np.flatnonzero(np.isin(found.ravel(), (GREEN, SECOND_GREEN)))
    found.ravel()[greens[1:]] = SECOND_GREEN
    found.ravel()[greens[:1]] = GREEN
    return found


def normalised(raw: Any) -> Array:
    """(H, W) float32, the visible mosaic from black, 0, to white, 1."""
    black = np.array(raw.black_level_per_channel, np.float32)[raw.raw_colors_visible]
    return np.asarray((raw.raw_image_visible - black) / (np.float32(raw.white_level) - black), np.float32)


def gains(raw: Any, how: Development) -> Array:
    """(4,) what each colour is multiplied by, in units of green, with the exposure."""
    chosen = how.multipliers
    found = np.array([*chosen, chosen[1]]) if chosen else np.array(raw.camera_whitebalance, float)
    if not chosen and (how.wb == "daylight" or not found[:3].all()):
        found = np.array(raw.daylight_whitebalance, float)
    found[SECOND_GREEN] = found[SECOND_GREEN] or found[GREEN]
    return np.asarray(found / found[GREEN] * 2**how.exposure)


def planes(mosaic: Array, colours: Array, gain: Array) -> list[Array]:
    """Two images (ceil(H / 2), ceil(W / 2), 3) float32: red, green and blue with either green, in the curve of sRGB."""
    even = np.pad(mosaic, [(0, side % 2) for side in mosaic.shape], mode="symmetric")
    flat = {int(colours[row, column]): even[row::2, column::2] for row in (0, 1) for column in (0, 1)}
    pages = [np.empty((*flat[RED].shape, 3), np.float32) for _ in range(2)]
    for rows in bands(flat[RED]):
        seen = {colour: to_perceptual(plane[rows] * gain[colour], "linear") for colour, plane in flat.items()}
        for page, green in zip(pages, (GREEN, SECOND_GREEN), strict=True):
            page[rows] = np.dstack([seen[RED], seen[green], seen[BLUE]])
    return pages


def mosaic_of(pages: list[Array], colours: Array, gain: Array, shape: tuple[int, int]) -> Array:
    """Undoes `planes`: (H, W) float32."""
    result = np.empty([side + side % 2 for side in shape], np.float32)
    for rows in bands(pages[0]):
        first, second = (page[rows].astype(np.float64) for page in pages)
        mean = (first + second) / 2
        seen = {RED: mean[..., 0], GREEN: first[..., 1], SECOND_GREEN: second[..., 1], BLUE: mean[..., 2]}
        for row in (0, 1):
            for column in (0, 1):
                colour = int(colours[row, column])
                part = result[2 * rows.start + row : 2 * rows.stop : 2, column::2]
                part[:] = from_perceptual(seen[colour], "linear") / gain[colour]
    return result[: shape[0], : shape[1]]


def developed_pixels(raw: Any, how: Development, mosaic: Array | None = None) -> Array:
    """(H, W, 3) uint16, not turned. mosaic: (H, W) from black, 0, to white, 1, in place of the file's own."""
    import rawpy

    options: dict[str, Any] = {}
    if mosaic is not None:
        raw.raw_image_visible[:] = np.rint(mosaic.clip(0, 1) * FULL).astype(np.uint16)
        options = {"user_black": 0, "user_cblack": [0, 0, 0, 0], "user_sat": FULL}
    chosen = how.multipliers
    if chosen:
        options["user_wb"] = [*chosen, chosen[1]]
    else:
        options |= {"use_camera_wb": how.wb == "camera", "use_auto_wb": how.wb == "auto"}
    if how.exposure:
        options |= {"exp_shift": 2**how.exposure, "exp_preserve_highlights": 0.0}
    modes = {"clip": "Clip", "blend": "Blend", "rebuild": "ReconstructDefault"}
    spaces = {"srgb": "sRGB", "p3": "P3D65", "adobe": "Adobe", "prophoto": "ProPhoto"}
    found = raw.postprocess(
        output_bps=16,
        no_auto_bright=True,
        adjust_maximum_thr=0.0,  # the brightest pixel, which noise decides, must not set the exposure
        user_flip=0,
        gamma=CURVES[how.space],
        highlight_mode=getattr(rawpy.HighlightMode, modes[how.highlights]),
        output_color=getattr(rawpy.ColorSpace, spaces[how.space]),
        **options,
    )
    return np.asarray(found)


def profile(space: str) -> bytes:
    """The ICC profile of a `Development.space`."""
    import imagecodecs

    if space == "srgb":
        return bytes(imagecodecs.cms_profile("srgb"))
    white = D50 if space == "prophoto" else D65
    power, toe = CURVES[space]
    curve = {"transferfunction": srgb_curve()} if toe else {"gamma": power}
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=PRIMARIES[space], **curve))


def developed(image: DecodedImage) -> DecodedImage:
    """An image of planes as one developed page. Raises OutputError where LibRaw gives up."""
    how = image.metadata.development or Development()
    data = dict(image.metadata.native)[MOSAIC]
    with opened(data) as raw:
        mosaic = mosaic_of([page.pixels for page in image.pages], pattern(raw), gains(raw, how), normalised(raw).shape)
        page = Page(developed_pixels(raw, how, mosaic))
    meta = replace(image.metadata, native=(), icc=profile(how.space))
    return replace(image, pages=[page], metadata=meta, values=None)
