"""Several versions of a picture to be compared by eye: as one HTML page, or as a contact sheet.

The page is one file without network access: split slider, side by side and blinking, with the same zoom for all
versions, and a table of figures. Without JavaScript it is a list of images and tables.
"""

from __future__ import annotations

import io
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medcli import __version__
from medcli.files.atomic import atomic_write
from medcli.images.contact_sheet import contact_sheet

Levels = NDArray[np.uint8]

TEMPLATE = Path(__file__).with_suffix(".html")
LOSSLESS = 4_000_000  # pixels up to which an image is PNG; larger ones are JPEG of QUALITY
QUALITY = 95


@dataclass(frozen=True)
class Version:
    """One version of a region. pixels: (H, W, 3) uint8, as is `error`, the map of its differences from the reference.

    figures: what was measured, by name. command: that makes it. reference: whether the others are measured against it.
    """

    name: str
    pixels: Levels
    figures: Mapping[str, str] = field(default_factory=dict)
    command: str = ""
    error: Levels | None = None
    reference: bool = False


@dataclass(frozen=True)
class Region:
    """A picture or a part of it in several versions, all of one size. icc: colour profile of the pixels."""

    name: str
    versions: Sequence[Version]
    icc: bytes | None = None


def write_page(path: Path, title: str, regions: Sequence[Region], note: str = "") -> None:
    """Writes the page. note: a paragraph below. Raises OutputError where `path` cannot be written."""
    parts = {
        "title": escape(title),
        "version": __version__,
        "scenes": "\n".join(_scene(region, number) for number, region in enumerate(regions)),
        "note": f"<p>{escape(note)}</p>" if note else "",
    }
    before, *rest = TEMPLATE.read_text(encoding="utf-8").split("{{")
    pieces = [before]
    for each in rest:  # each marker once: what is inserted is not searched again
        name, _, text = each.partition("}}")
        pieces += [parts[name], text]
    with atomic_write(path) as file:
        file.writelines(piece.encode() for piece in pieces)


def _scene(region: Region, number: int) -> str:
    figures = "\n".join(_figure(region, version) for version in region.versions)
    return (
        f'<section class="scene" aria-labelledby="scene-{number}"><h2 id="scene-{number}">{escape(region.name)}</h2>\n'
        f'<div class="stage" role="group" aria-label="{escape(region.name)}: versions">\n{figures}\n</div>\n'
        f"{_table(region)}</section>"
    )


def _figure(region: Region, version: Version) -> str:
    name = escape(version.name)
    marks = (" data-error" if version.error is not None else "") + (" data-reference" if version.reference else "")
    images = _image(version.pixels, region.icc, "plain", f"{region.name}: {version.name}")
    if version.error is not None:
        images += _image(version.error, None, "error", f"{region.name}: {version.name}, error map")
    return f'<figure data-name="{name}"{marks}>{images}<figcaption>{name}</figcaption></figure>'


def _image(pixels: Levels, icc: bytes | None, kind: str, alt: str) -> str:
    height, width = pixels.shape[:2]
    buffer, lossless = io.BytesIO(), height * width <= LOSSLESS
    image = Image.fromarray(pixels)
    if lossless:
        image.save(buffer, "PNG", icc_profile=icc, compress_level=4)
    else:
        image.save(buffer, "JPEG", icc_profile=icc, quality=QUALITY, subsampling=0)
    source = f"data:image/{'png' if lossless else 'jpeg'};base64,{b64encode(buffer.getvalue()).decode()}"
    size = f'width="{width}" height="{height}"'
    return f'<img class="{kind}" alt="{escape(alt)}" {size} decoding="async" src="{source}">'


def _table(region: Region) -> str:
    names = list(dict.fromkeys(name for version in region.versions for name in version.figures))
    if not names:
        return ""
    commands = ["command"] if any(version.command for version in region.versions) else []
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ["version", *names, *commands])
    rows = "\n".join(_row(version, names, number) for number, version in enumerate(region.versions))
    caption = f"<caption>{escape(region.name)}: figures</caption>"
    return f'<div class="scroll"><table>{caption}<thead><tr>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>'


def _row(version: Version, names: Sequence[str], number: int) -> str:
    cells = "".join(f'<td class="number">{escape(version.figures.get(name, ""))}</td>' for name in names)
    marks = f'data-version="{number}" data-name="{escape(version.name)}"'
    command = f"<code {marks}>{escape(version.command)}</code>" if version.command else ""
    return f'<tr><th scope="row">{escape(version.name)}</th>{cells}<td>{command}</td></tr>'


def write_sheet(path: Path, regions: Sequence[Region], side: int = 1024) -> None:
    """Writes a PNG: a row for each region, a column for each version, its figures below it.

    side: pixels; of a larger region the middle is shown. Raises OutputError where `path` cannot be written.
    """
    titles = [version.name for version in regions[0].versions]
    labels = [[_label(region, version) for version in region.versions] for region in regions]
    rows = [[version.pixels for version in region.versions] for region in regions]
    contact_sheet(rows, titles, path, side=side, labels=labels)


def _label(region: Region, version: Version) -> str:
    if version is region.versions[0]:
        return ", ".join([region.name, *(f"{name} {value}" for name, value in version.figures.items())])
    return ", ".join(f"{name} {value}" for name, value in version.figures.items())
