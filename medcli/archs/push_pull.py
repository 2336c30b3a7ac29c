"""Missing pixels filled by push-pull: means of what is known nearby, from finer to coarser grids.

Source: Gortler et al., The Lumigraph (SIGGRAPH 1996), section 3.4.2, with box filters of 3x3 and 2x2 pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def fill_missing(images: Tensor, missing: Tensor, levels: int) -> Tensor:
    """(B, C, H, W) with the pixels where `missing`, (B, 1, H, W) boolean, is true interpolated from the others.

    H and W: multiples of 2^levels. Next to known pixels, their mean over 3x3; further inside, the mean over the
    smallest block of 2, 4, ... 2^levels pixels that has one; mid-grey (0.5) where none has. Tiles on the grid of the
    largest block agree.
    """
    known = missing.logical_not().to(images.dtype)
    sums, counts = (F.avg_pool2d(values, 3, 1, 1) for values in (images * known, known))
    return torch.where(missing, _pull(sums, counts, levels), images)


def _pull(sums: Tensor, counts: Tensor, levels: int) -> Tensor:
    if levels:
        coarse = _pull(F.avg_pool2d(sums, 2), F.avg_pool2d(counts, 2), levels - 1)
        deep = F.interpolate(coarse, scale_factor=2, mode="nearest")
    else:
        deep = torch.full_like(sums, 0.5)
    return torch.where(counts > 0, sums / counts.clamp(min=1e-6), deep)
