"""Claims about the optimizer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medcli.train.muon import Muon, orthogonalise


@pytest.mark.parametrize("shape", [(3, 8, 40), (2, 40, 8), (1, 16, 16)])
def test_singular_values_come_near_one_and_vectors_stay(shape: tuple[int, int, int]) -> None:
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    straight = orthogonalise(matrices)
    values = torch.linalg.svdvals(straight)
    assert straight.shape == matrices.shape
    if shape[1] != shape[2]:  # a square random matrix has singular values near 0, which five iterations do not lift
        assert values.min() > 0.5
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    aligned = torch.einsum("nij,nik,nlk->njl", left, straight, right)
    off_diagonal = aligned - torch.diag_embed(torch.diagonal(aligned, dim1=1, dim2=2))
    assert off_diagonal.abs().max() < 0.1


def test_a_batch_of_matrices_is_treated_one_by_one() -> None:
    matrices = torch.randn(2, 8, 20, generator=torch.Generator().manual_seed(0))
    matrices[1] *= 1000
    together = orthogonalise(matrices)
    apart = torch.cat([orthogonalise(matrices[:1]), orthogonalise(matrices[1:])])
    assert torch.allclose(together, apart, atol=0.02)


def test_it_solves_a_least_squares_problem() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 12, generator=generator)
    torch.manual_seed(0)  # of the layers' weights
    layer, truth = nn.Linear(12, 6), nn.Linear(12, 6)
    optimizer = Muon(layer.parameters(), lr=0.05)
    with torch.no_grad():
        wanted = truth(inputs)
    losses = []
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / 300)
        optimizer.zero_grad()
        loss = (layer(inputs) - wanted).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-2 * losses[0]


def test_parameters_without_a_gradient_stay() -> None:
    layer = nn.Linear(4, 4)
    before = [parameter.clone() for parameter in layer.parameters()]
    Muon(layer.parameters(), lr=1.0).step()
    assert all(torch.equal(a, b) for a, b in zip(before, layer.parameters(), strict=True))
    with pytest.raises(ValueError, match="closure"):
        Muon(layer.parameters(), lr=1.0).step(lambda: 0.0)
