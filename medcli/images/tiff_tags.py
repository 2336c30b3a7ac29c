"""Tags of TIFF: which are copied to the new file, which describe how the old one was packed, and what is dropped."""

from __future__ import annotations

from collections.abc import Iterable

from tifffile import TiffPage, TiffTag

from medcli.images import exif

XMP, ICC = 700, 34675
SUBIFDS, PHOTOSHOP_LAYERS, SUBFILE = 330, 37724, 254
# Copied whatever their type: names, dates, orientation, place on the sheet; primaries and white; georeference, nodata;
# ImageJ, Micro-Manager; IPTC, Photoshop; Zeiss and FEI microscopes.
KEPT = frozenset((
    *(SUBFILE, 269, 270, 271, 272, 274, 285, 286, 287, 297, 305, 306, 315, 316, 318, 319, 337, 32781, 33432),
    *(33550, 33922, 34264, 34735, 34736, 34737, 42112, 42113),
    *(50838, 50839, 51123, 33723, 34377, 34118, 34680, 34682),
))  # fmt: skip
# Written anew, or true of the old samples alone: layout, packing, inks, palette, fax, JPEG, extremes.
PACKING = frozenset((
    *range(255, 269), 273, *range(277, 285), *range(288, 294), 296, 301, 317, *range(320, 329),
    *range(332, 337), *range(338, 348), *range(512, 522), 529, 530, 531, 532, 32995, 32996, 32997, 32998,
))  # fmt: skip
ELSEWHERE = frozenset((XMP, ICC, exif.EXIF_IFD, exif.GPS_IFD))  # `Metadata` has them
FREE_OF_OFFSETS = frozenset((2, 3, 5, 8, 10, 11, 12))  # text, short integers, fractions, floats


def kept(page: TiffPage, own: Iterable[int] = ()) -> list[TiffTag]:
    """The tags that are copied word for word, and those of the codes `own`."""
    return [tag for tag in page.tags if tag.code in KEPT or tag.code in own or _is_plain(tag)]


def losses(pages: list[TiffPage]) -> list[str]:
    """A line for each kind of content that the new file will not have."""
    tags = [tag for page in pages for tag in page.tags]
    lines = []
    if children := sum(tag.count for tag in tags if tag.code == SUBIFDS):
        lines.append(f"Smaller copies of the image, or other images below it (SubIFDs: {children}), were dropped.")
    if any(tag.code == PHOTOSHOP_LAYERS for tag in tags):
        lines.append("Photoshop's layers were dropped: the flat image stays.")
    others = [tag for tag in tags if not (tag.code in (SUBIFDS, PHOTOSHOP_LAYERS) or _is_known(tag))]
    names = dict.fromkeys(f"{tag.code}" + (f" {tag.name}" if tag.name != str(tag.code) else "") for tag in others)
    if names:
        lines.append(f"Tags that may point into the old file were dropped: {', '.join(names)}.")
    return lines


def _is_known(tag: TiffTag) -> bool:
    return tag.code in KEPT or tag.code in PACKING or tag.code in ELSEWHERE or _is_plain(tag)


def _is_plain(tag: TiffTag) -> bool:
    """Whether a tag that is not in the tables can be copied: no number in it can be a place in the old file."""
    listed = tag.code in PACKING or tag.code in ELSEWHERE or tag.code in (SUBIFDS, PHOTOSHOP_LAYERS)
    return int(tag.dtype) in FREE_OF_OFFSETS and not listed
