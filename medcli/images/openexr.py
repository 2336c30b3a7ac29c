"""OpenEXR: linear floats of 16 and 32 bits, gray or RGB with alpha; further channels are carried along unchanged."""

from __future__ import annotations

import io
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from medcli.errors import InputError, OutputError
from medcli.images.decoded_image import DecodedImage, Metadata, Page
from medcli.images.plugins import plugin
from medcli.images.source import ImageBytes

HEAD, CHANNEL = b"head", b"channel "  # kinds of blocks of `Metadata.native`
HEAD_BYTES = 1 << 20  # of the file, from which the header can be read again
DROPPED = ("channels", "preview", "lineOrder", "dataWindow")
COLOURS = ("R", "G", "B")

Array = NDArray[Any]


def decode(source: ImageBytes) -> DecodedImage:
    """A `DecodedImage` of one page. Raises InputError for a damaged file, and one without R, G, B or Y."""
    exr = plugin("OpenEXR", "OpenEXR", "OpenEXR", InputError)
    data = source.content()
    try:
        head = exr.File(io.BytesIO(data), header_only=True)
        left, top, right, bottom = (int(value) for corner in head.header()["dataWindow"] for value in corner)
        source.admit(right - left + 1, bottom - top + 1, most=source.most_pixels(len(data)))
        names = [channel.name for channel in head.header()["channels"]]
        file = exr.File(io.BytesIO(data), separate_channels=True)
        held = {name: channel.pixels for name, channel in file.channels().items()}
    except (RuntimeError, ValueError, LookupError, TypeError):
        raise source.damaged("its header or pixels cannot be unpacked") from None
    if any(held.get(name) is None for name in names):
        raise source.damaged("its pixels are not complete")
    meta = Metadata(native=((HEAD, data[:HEAD_BYTES]),), transfer="linear", lossless=True)
    image = DecodedImage([_page(held, source)], "exr", meta)
    others = {name: pixels for name, pixels in held.items() if name not in (*COLOURS, "Y", "A")}
    meta.native += tuple(
        (CHANNEL + f"{pixels.dtype.name} {name}".encode(), pixels.tobytes()) for name, pixels in others.items()
    )
    if others:
        image.remark(f"Channels that are no colour are kept as they are: {', '.join(others)}.")
    if len(head.parts) > 1:
        image.remark(f"Of {len(head.parts)} parts of the file, the first is kept.")
    return image


def _page(held: dict[str, Array], source: ImageBytes) -> Page:
    names = COLOURS if all(name in held for name in COLOURS) else ("Y",)
    if names[0] not in held or len({held[name].shape for name in names}) > 1 or "RY" in held or "BY" in held:
        raise source.unfit(f"its channels are {', '.join(held) or 'none'}", "Channels R, G, B or Y are read.")
    kind = np.result_type(*(held[name].dtype for name in names))
    kind = kind if kind.kind == "f" else np.dtype(np.float32)
    pixels = np.stack([held[name] for name in names], 2).astype(kind, copy=False)
    alpha = held["A"].astype(kind, copy=False) if "A" in held else None
    return Page(pixels if len(names) == 3 else np.ascontiguousarray(pixels[:, :, 0]), alpha)


def encode(image: DecodedImage, stream: BinaryIO, quality: int | None) -> None:
    """Write one page, float16 or float32, with the header and the further channels of the source."""
    exr = plugin("OpenEXR", "OpenEXR", "OpenEXR", OutputError)
    page, native = image.pages[0], dict(image.metadata.native)
    header = {"compression": exr.ZIP_COMPRESSION, "type": exr.scanlineimage}
    window = None
    if HEAD in native:
        source = exr.File(io.BytesIO(native[HEAD]), header_only=True).header()
        window = source["dataWindow"] if _side(source["dataWindow"]) == page.pixels.shape[:2] else None
        header |= {name: value for name, value in source.items() if name not in DROPPED}
        header["type"] = exr.scanlineimage
    if window is not None:
        header["dataWindow"] = window
    else:
        header.pop("displayWindow", None)
    colours = ("Y",) if page.pixels.ndim == 2 else COLOURS
    layers = page.pixels.reshape(*page.pixels.shape[:2], -1)
    channels = {name: np.ascontiguousarray(layers[:, :, number]) for number, name in enumerate(colours)}
    if page.alpha is not None:
        channels["A"] = np.ascontiguousarray(page.alpha)
    for kind, content in native.items():
        if kind.startswith(CHANNEL) and window is not None:
            dtype, _, name = kind.removeprefix(CHANNEL).decode().partition(" ")
            channels[name] = np.frombuffer(content, dtype).reshape(page.pixels.shape[:2]).copy()
    packed = io.BytesIO()
    exr.File(header, channels).write(packed)
    stream.write(packed.getbuffer())


def _side(window: Any) -> tuple[int, int]:
    (left, top), (right, bottom) = window
    return int(bottom - top + 1), int(right - left + 1)
