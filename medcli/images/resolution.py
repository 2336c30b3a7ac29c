"""What a file carries, after its image has become larger: the same size in print, the true number of pixels."""

from __future__ import annotations

from dataclasses import replace

from medcli.images import exif
from medcli.images.decoded_image import DecodedImage, TiffLayout

DENSITY = (b"pHYs", b"\xe0")  # blocks of PNG and of JPEG that say what `dpi` says too
PIXEL_SCALE = (b"sCAL", b"oFFs")  # of PNG
DESCRIPTION, GEOREFERENCE = 270, (33550, 33922, 34264, 34735, 34736, 34737)
SHAPED = (b'{"shape"', b"shape=", b"<?xml", b"<OME")  # descriptions that state the number of pixels


def follow(image: DecodedImage, factor: int) -> None:
    """Adapts the metadata of an image whose pixels have become `factor` times as many on each side.

    Resolutions are multiplied, so that it prints at its old size. What states places in the old pixels is dropped, with
    a note: georeference, descriptions of the array.
    """
    meta = image.metadata
    layouts = tuple(_layout(each, factor) for each in meta.tiff)
    if any(len(before.tags) > len(after.tags) for before, after in zip(meta.tiff, layouts, strict=True)):
        image.remark("TIFF tags that state places in the old pixels were dropped.")
    scaled = tuple(block for block in meta.native if block[0] not in PIXEL_SCALE)
    if len(scaled) < len(meta.native):
        image.remark("PNG chunks that state sizes of the old pixels were dropped.")
    image.metadata = replace(
        meta,
        dpi=meta.dpi and (meta.dpi[0] * factor, meta.dpi[1] * factor),
        native=tuple(block for block in scaled if not (meta.dpi and block[0] in DENSITY)),
        exif=meta.exif and exif.enlarged(meta.exif, factor, *image.size),
        tiff=layouts,
    )


def _layout(layout: TiffLayout, factor: int) -> TiffLayout:
    tags = tuple(tag for tag in layout.tags if tag[0] not in GEOREFERENCE and not _states_a_shape(tag[0], tag[3]))
    if layout.resolution is None:
        return replace(layout, tags=tags)
    across, down, unit = layout.resolution
    return replace(layout, tags=tags, resolution=(exif.times(across, factor), exif.times(down, factor), unit))


def _states_a_shape(code: int, value: bytes) -> bool:
    return code == DESCRIPTION and value.lstrip().startswith(SHAPED)
