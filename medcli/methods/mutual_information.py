"""Estimates of mutual information by networks that tell matching pairs from others.

Hjelm et al., Learning Deep Representations by Mutual Information Estimation and Maximization (ICLR 2019), equation 4
and figures 2 and 3: Deep InfoMax, with the Jensen-Shannon estimator, global and local.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WIDTH, STEM = 512, 64
GLOBAL, LOCAL = 0.5, 1.0  # weights of both estimates


def jensen_shannon(joint: Tensor, product: Tensor) -> Tensor:
    """A lower bound of dependence, from -2 log 2 (the pairs cannot be told apart) to 0, of any shape -> scalar.

    joint, product: statistics of matching pairs and of pairs from independent draws, of any size.
    """
    return -F.softplus(-joint.float()).mean() - F.softplus(product.float()).mean()


def shuffled(codes: Tensor) -> Tensor:
    """(B, ...) with each sample in the place of its neighbour: no sample keeps its own. B must be 2 or more."""
    if len(codes) < 2:
        raise ValueError("one sample cannot be shuffled")
    return codes.roll(1, 0)


class PairClassifier(nn.Sequential):
    """(B, features) -> (B, 1): whether what was concatenated belongs together."""

    def __init__(self, features: int) -> None:
        super().__init__(nn.Linear(features, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 1))


class ImageDependence(nn.Module):
    """Mutual information of images and codes: global from the whole image, local at each of its places.

    channels: of the images. features: of the codes.
    """

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        pairs = ((channels, STEM), (STEM, STEM), (STEM, STEM))
        self.stem = nn.Sequential(
            *(layer for pair in pairs for layer in (nn.Conv2d(*pair, 3, stride=2, padding=1), nn.ReLU()))
        )
        self.whole = PairClassifier(STEM + features)
        self.places = nn.Sequential(
            nn.Conv2d(STEM + features, WIDTH, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 1), nn.ReLU(),
            nn.Conv2d(WIDTH, 1, 1),
        )  # fmt: skip

    def forward(self, images: Tensor, codes: Tensor) -> Tensor:
        """(B, C, H, W) and (B, features), B of 2 or more -> the weighted sum of both estimates."""
        places = self.stem(images)
        pooled = places.mean((2, 3))
        pairs = (codes, shuffled(codes))
        whole = [self.whole(torch.cat((pooled, each), 1)) for each in pairs]
        tiled = [each[..., None, None].expand(-1, -1, *places.shape[2:]) for each in pairs]
        local = [self.places(torch.cat((places, each), 1)) for each in tiled]
        return GLOBAL * jensen_shannon(*whole) + LOCAL * jensen_shannon(*local)
