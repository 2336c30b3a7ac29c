"""How numbers encode light: linear, PQ and HLG to the curve of sRGB and back, and what profiles say of it.

A network knows pictures as sRGB has them, where equal steps look equal. In linear light shadows are squeezed into a few
steps; PQ and HLG leave the lower half of the range to what sRGB calls white.

Sources: IEC 61966-2-1 (sRGB); SMPTE ST 2084 and ITU-R BT.2100 (PQ, HLG); ITU-R BT.2408 (diffuse white: 203 cd/m2 in PQ,
75 % in HLG); ITU-T H.273 (numbers of primaries and transfer functions).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from medcli.images import boxes
from medcli.images.decoded_image import Metadata

Transfer = Literal["linear", "pq", "hlg"]
Array = NDArray[Any]
Floats = NDArray[np.float32]
Nclx = tuple[int, int, int, int]  # primaries, transfer, matrix, full range

TRANSFERS: tuple[str, ...] = get_args(Transfer)
BY_NUMBER: dict[int, Transfer] = {8: "linear", 16: "pq", 18: "hlg"}
PRIMARIES = {  # x and y of red, green and blue, by number
    1: (0.640, 0.330, 0.300, 0.600, 0.150, 0.060),  # sRGB, BT.709
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    12: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
}
D65 = (0.3127, 0.3290, 1.0)
SDR_CURVES = (1, 6, 13, 14, 15)  # of video and sRGB, all shown alike

SLOPE = 1.055 / 2.4  # of the curve of sRGB at white; above white it goes on as a logarithm of this slope
PQ_WHITE = 203 / 10_000
M1, M2, C1, C2, C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
HLG_A, HLG_B, HLG_C = 0.17883277, 0.28466892, 0.55991073
HLG_WHITE = (float(np.exp((0.75 - HLG_C) / HLG_A)) + HLG_B) / 12


def to_perceptual(values: Array, transfer: Transfer) -> Floats:
    """Signal in [0, 1] (linear: 1 is diffuse white, more is brighter) -> sRGB curve, float32, same shape.

    Values below 0 are mirrored; NaN stays.
    """
    return _srgb(_light(values.astype(np.float64), transfer)).astype(np.float32)


def from_perceptual(values: Array, transfer: Transfer) -> NDArray[np.float64]:
    """Undoes `to_perceptual`."""
    return _signal(_srgb_light(values.astype(np.float64)), transfer)


def _srgb(light: Array) -> Array:
    size = np.abs(light)
    with np.errstate(divide="ignore", invalid="ignore"):
        upper = np.where(size > 1, 1 + SLOPE * np.log(np.maximum(size, 1)), 1.055 * size ** (1 / 2.4) - 0.055)
    return np.copysign(np.where(size <= 0.0031308, 12.92 * size, upper), light)


def _srgb_light(values: Array) -> Array:
    size = np.abs(values)
    middle = ((np.minimum(size, 1) + 0.055) / 1.055) ** 2.4
    upper = np.where(size > 1, np.exp(np.minimum((np.maximum(size, 1) - 1) / SLOPE, 80)), middle)
    return np.copysign(np.where(size <= 0.04045, size / 12.92, upper), values)


def _light(signal: Array, transfer: Transfer) -> Array:
    """1 is diffuse white."""
    if transfer == "linear":
        return signal
    size = np.abs(signal)
    if transfer == "pq":
        power = size ** (1 / M2)
        light = (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1) / PQ_WHITE
    else:
        light = np.where(size <= 0.5, size**2 / 3, (np.exp((size - HLG_C) / HLG_A) + HLG_B) / 12) / HLG_WHITE
    return np.copysign(light, signal)


def _signal(light: Array, transfer: Transfer) -> Array:
    if transfer == "linear":
        return light
    size = np.abs(light)
    if transfer == "pq":
        power = (size * PQ_WHITE) ** M1
        signal = ((C1 + C2 * power) / (1 + C3 * power)) ** M2
    else:
        scene = size * HLG_WHITE
        root = np.sqrt(3 * scene)
        signal = np.where(scene <= 1 / 12, root, HLG_A * np.log(np.maximum(12 * scene - HLG_B, 1e-9)) + HLG_C)
    return np.copysign(signal, light)


def transfer_of(meta: Metadata) -> Transfer | None:
    """How the pixels encode light, as the metadata say; None for everything near sRGB's curve, or unknown."""
    if meta.transfer:
        return meta.transfer
    if meta.nclx:
        return BY_NUMBER.get(meta.nclx[1])
    for kind, content in meta.native:
        if kind == b"cICP" and len(content) == 4:  # of PNG
            return BY_NUMBER.get(content[1])
    return _of_profile(meta.icc) if meta.icc else None


def _of_profile(icc: bytes) -> Transfer | None:
    """By the tag cicp, or by curves that are straight lines (ICC.1:2022, 9.2.17, 10.6 and 10.18)."""
    tags = profile_tags(icc)
    if len(tags.get(b"cicp", b"")) >= 12:
        return BY_NUMBER.get(tags[b"cicp"][9])
    curves = [tags[name] for name in (b"rTRC", b"gTRC", b"bTRC", b"kTRC") if name in tags]
    return "linear" if curves and all(_is_straight(curve) for curve in curves) else None


def _is_straight(curve: bytes) -> bool:
    if curve[:4] == b"curv" and len(curve) >= 12:
        count = int.from_bytes(curve[8:12], "big")
        return count == 0 or (count == 1 and curve[12:14] == b"\1\0")
    return curve[:4] == b"para" and curve[8:10] == b"\0\0" and curve[12:16] == b"\0\1\0\0"


def profile_tags(icc: bytes) -> dict[bytes, bytes]:
    """The tags of an ICC profile by signature; those beyond its end are left out."""
    if len(icc) < 132:
        return {}
    count = min(int.from_bytes(icc[128:132], "big"), (len(icc) - 132) // 12)
    entries = (struct.unpack_from(">4sII", icc, 132 + 12 * number) for number in range(count))
    return {name: icc[at : at + size] for name, at, size in entries if at + size <= len(icc)}


@lru_cache(maxsize=16)
def is_srgb(icc: bytes | None) -> bool:
    """Whether a profile of RGB or gray means sRGB, to one level of 8 bits; also where there is none."""
    if not icc:
        return True
    steps = np.arange(0, 256, 51, dtype=np.uint8)
    gray = icc[16:20] == b"GRAY"
    colours = np.repeat(steps[:, None], 3, 1) if gray else np.stack(np.meshgrid(*[steps] * 3), -1).reshape(-1, 3)
    try:
        found = converted(colours[None, :, 0] if gray else colours[None], icc, b"")
    except ValueError:
        return False
    return int(np.abs(found.reshape(-1, found.shape[2] if found.ndim > 2 else 1).astype(int)
                      - (colours[:, :1] if gray else colours)).max()) <= 1  # fmt: skip


def converted(pixels: Array, icc: bytes, to: bytes) -> Array:
    """(H, W) or (H, W, 3) of uint8, uint16 or float32 in the profile `icc` -> the same in the profile `to`.

    to: empty for sRGB (of gray, its curve). Raises ValueError for a profile that cannot be used.
    """
    import imagecodecs

    gray = pixels.ndim == 2
    kind = "gray" if gray else "rgb"
    target = to or (gray_profile() if gray else imagecodecs.cms_profile("srgb"))
    try:
        found = imagecodecs.cms_transform(
            np.ascontiguousarray(pixels), icc, target, colorspace=kind, outcolorspace=kind
        )
    except (RuntimeError, ValueError, TypeError) as error:
        raise ValueError(str(error)) from None
    return np.asarray(found).reshape(pixels.shape)


def gray_profile() -> bytes:
    """Gray with the curve of sRGB."""
    import imagecodecs

    return bytes(imagecodecs.cms_profile("gray", whitepoint=D65, transferfunction=srgb_curve()))


def linear_profile(gray: bool) -> bytes:
    """The primaries of sRGB, or gray, in linear light."""
    import imagecodecs

    if gray:
        return bytes(imagecodecs.cms_profile("gray", whitepoint=D65, gamma=1.0))
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=_with_y(1), gamma=1.0))


def _with_y(primaries: int) -> list[float]:
    x_red, y_red, x_green, y_green, x_blue, y_blue = PRIMARIES[primaries]
    return [x_red, y_red, 1.0, x_green, y_green, 1.0, x_blue, y_blue, 1.0]


def profile_of(nclx: Nclx | None) -> bytes | None:
    """A profile for wide primaries with the curve of sRGB, which other formats can carry; None where none is needed."""
    import imagecodecs

    if nclx is None or nclx[0] not in PRIMARIES or nclx[0] == 1 or nclx[1] not in SDR_CURVES:
        return None
    wide = _with_y(nclx[0])
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=D65, primaries=wide, transferfunction=srgb_curve()))


def srgb_matrix() -> NDArray[np.float64]:
    """(3, 3) from XYZ to linear light in the primaries of sRGB."""
    return np.asarray(np.linalg.inv(_to_xyz(1)))


def to_srgb_matrix(primaries: int) -> NDArray[np.float64]:
    """(3, 3) that takes linear light in these primaries to those of sRGB."""
    return np.asarray(np.linalg.inv(_to_xyz(1)) @ _to_xyz(primaries))


def _to_xyz(primaries: int) -> NDArray[np.float64]:
    points = np.array(PRIMARIES[primaries]).reshape(3, 2)
    columns = np.stack([points[:, 0], points[:, 1], 1 - points.sum(1)]) / points[:, 1]
    white = np.array([D65[0], D65[1], 1 - D65[0] - D65[1]]) / D65[1]
    return np.asarray(columns * np.linalg.solve(columns, white))


def srgb_curve() -> NDArray[np.uint16]:
    """The curve of sRGB for a profile."""
    return np.asarray(np.rint(65535 * _srgb_light(np.linspace(0, 1, 1024))), np.uint16)


def nclx_of(data: bytes) -> Nclx | None:
    """Colour as four numbers of H.273, of an AVIF or HEIF file; None where it does not say."""
    for content in boxes.found(data, b"meta", b"iprp", b"ipco", b"colr"):
        if content[:4] == b"nclx" and len(content) >= 11:
            primaries, transfer, matrix, full = struct.unpack(">3HB", content[4:11])
            return primaries, transfer, matrix, full >> 7
    return None


def with_nclx(data: bytes, nclx: Nclx) -> bytes:
    """The file with these primaries and transfer; the matrix stays, for the pixels were coded with it."""
    at = data.find(b"colrnclx")
    if at < 0:
        return data
    return data[: at + 8] + struct.pack(">2H", *nclx[:2]) + data[at + 12 :]
