"""Which files come from a microscope: by what their programs write into them, without decoding a pixel."""

from __future__ import annotations

from pathlib import Path

from medcli.images.formats import format_of


def is_micrograph(path: Path) -> bool:
    """Whether it is a TIFF of one gray channel per page that OME, ImageJ or a microscope's program has written.

    False for what cannot be read.
    """
    if format_of(path) != "tiff" or not path.is_file():
        return False
    from tifffile import TiffFile

    from medcli.images.tiff import DAMAGE

    try:
        with TiffFile(path) as tif:
            known = tif.is_ome or tif.is_imagej or tif.is_stk or tif.is_lsm or tif.is_fluoview or tif.is_micromanager
            page = tif.pages.first
            return bool(known) and page.samplesperpixel == 1 and page.photometric in (0, 1)
    except DAMAGE:
        return False
