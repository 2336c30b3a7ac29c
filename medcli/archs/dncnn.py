"""DnCNN: a plain stack of convolutions that predicts the noise.

Zhang et al., Beyond a Gaussian Denoiser: Residual Learning of Deep CNN for Image Denoising (TIP 2017), section III.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medcli.archs.graphs.dncnn import traits


class DnCNN(nn.Module):
    """(B, C, H, W) float in [0, 1] -> same shape, any H and W.

    depth: number of 3x3 convolutions (17 in the paper for a known sigma, 20 for the blind model).
    batch_norm: batch normalisation between the inner convolutions and their ReLU, as in the paper.
    """

    multiple = 1

    def __init__(self, channels: int = 3, width: int = 64, depth: int = 17, batch_norm: bool = True) -> None:
        super().__init__()
        if depth < 3:
            raise ValueError(f"depth must be at least 3, not {depth}")
        self.config: dict[str, Any] = {"channels": channels, "width": width, "depth": depth, "batch_norm": batch_norm}
        self.channels = channels
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
        for _ in range(depth - 2):
            layers.append(nn.Conv2d(width, width, 3, padding=1, bias=not batch_norm))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width, momentum=0.05))
            layers.append(nn.ReLU(inplace=True))
        layers.append(nn.Conv2d(width, channels, 3, padding=1))
        self.layers = nn.Sequential(*layers)

    @property
    def receptive_field(self) -> int:
        """Largest distance in pixels at which an input can influence an output: one for each convolution."""
        return traits(self.config).receptive_field

    def forward(self, noisy: Tensor) -> Tensor:
        residual: Tensor = self.layers(noisy)
        return noisy - residual
