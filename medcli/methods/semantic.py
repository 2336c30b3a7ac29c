"""Features of an image that change with its content and hardly with noise or brightness.

For LIR's semantic consistency (equation 11). The paper takes those of VGG-19, whose weights are not part of medcli.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medcli.errors import RecipeError
from medcli.methods.med import SplitNetwork
from medcli.registry import nearest

VGG19 = (2, 2, 4, 4, 4)  # convolutions before each pooling
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
POOLS = (4, 8, 16)
DIRECTIONS = 8
FAINT = 1e-2  # deviation of a feature below which it counts as flat


class StructuralFilters(nn.Module):
    """A structural surrogate for deep features, without weights: where edges and lines are, by direction.

    Means over 4, 8 and 16 pixels, in which little noise is left; first and second derivatives of a Gaussian (sigma 1)
    in eight directions; absolute values, smoothed 3 by 3. Each map is then normalised to mean 0 and deviation 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", _derivatives())
        self.kernels: Tensor

    def forward(self, image: Tensor) -> list[Tensor]:
        gray = image.float().mean(1, keepdim=True)
        with torch.autocast(image.device.type, enabled=False):
            return [self._at(F.avg_pool2d(gray, pool)) for pool in POOLS if min(gray.shape[2:]) >= 2 * pool]

    def _at(self, means: Tensor) -> Tensor:
        radius = self.kernels.shape[2] // 2
        edges = F.conv2d(F.pad(means, [radius] * 4, mode="replicate"), self.kernels).abs()
        return normalised(F.avg_pool2d(F.pad(edges, [1] * 4, mode="replicate"), 3, 1), FAINT)


class VGG19Features(nn.Module):
    """A layer of VGG-19, before its ReLU, each map normalised to mean 0 and deviation 1 as in the published code.

    tensors: `features.0.weight` and so on, as torchvision names them. layer: such as "conv5_1" (the paper) or
    "conv4_1" (the published code). Raises RecipeError where tensors are missing or of other shapes.

    Departs: images are normalised as torchvision's weights expect them, not as Caffe's.
    """

    def __init__(self, tensors: Mapping[str, Tensor], layer: str) -> None:
        super().__init__()
        names = [f"conv{stage}_{place}" for stage, depth in enumerate(VGG19, 1) for place in range(1, depth + 1)]
        if layer not in names:
            raise RecipeError(f"VGG-19 has no layer '{layer}'.", nearest(layer, names))
        layers: list[nn.Module] = []
        width = 3
        for stage, depth in enumerate(VGG19):
            for _ in range(depth):
                layers += [nn.Conv2d(width, width := 64 * 2 ** min(stage, 3), 3, padding=1), nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
        last = [place for place, each in enumerate(layers) if isinstance(each, nn.Conv2d)][names.index(layer)]
        self.features = nn.Sequential(*layers[: last + 1])
        wanted = {name: tensors[name] for name in self.state_dict() if name in tensors}
        try:
            self.load_state_dict(wanted)
        except RuntimeError as error:
            hint = "It must have the names and shapes of torchvision's vgg19: features.0.weight and so on."
            raise RecipeError(f"The file does not hold VGG-19 up to {layer}.", hint) from error
        self.requires_grad_(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        colour = image.float().expand(-1, 3, -1, -1)
        mean, deviation = (torch.tensor(each).to(colour)[:, None, None] for each in IMAGENET)
        return [normalised(self.features((colour - mean) / deviation).float())]


class EncoderFeatures(nn.Module):
    """The deepest latent of a network in two halves, each map normalised to mean 0 and deviation 1.

    Raises RecipeError for other networks.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        if not isinstance(network, SplitNetwork):
            hint = "Choose a model trained by 'med' or 'lir'."
            raise RecipeError(f"{type(network).__name__} has no encoder to take features from.", hint)
        self.encoder = network.encoder.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EncoderFeatures:
        """Its statistics stay as they are."""
        return super().train(False)

    def forward(self, image: Tensor) -> list[Tensor]:
        return [normalised(self.encoder(image)[-1].float())]


def normalised(features: Tensor, faint: float = 1e-5) -> Tensor:
    """Each map of each image with mean 0 and deviation 1; those with less deviation than `faint` stay smaller."""
    deviation, mean = torch.std_mean(features, (2, 3), keepdim=True, correction=0)
    return (features - mean) / (deviation.square() + faint**2).sqrt()


def distance(one: list[Tensor], other: list[Tensor]) -> Tensor:
    """Mean squared difference, averaged over the maps."""
    return torch.stack([(a.float() - b.float()).square().mean() for a, b in zip(one, other, strict=True)]).mean()


def _derivatives(radius: int = 3) -> Tensor:
    """(2 DIRECTIONS, 1, 7, 7): first and second derivatives of a Gaussian of sigma 1, each sums to 0."""
    line = torch.arange(-radius, radius + 1.0)
    rows, columns = torch.meshgrid(line, line, indexing="ij")
    bell = torch.exp(-(rows**2 + columns**2) / 2) / (2 * math.pi)
    kernels = []
    for number in range(DIRECTIONS):
        angle = math.pi * number / DIRECTIONS
        along = rows * math.sin(angle) + columns * math.cos(angle)
        kernels += [-along * bell, (along**2 - 1) * bell]
    stacked = torch.stack(kernels)[:, None]
    return stacked - stacked.mean((2, 3), keepdim=True)
