"""Tiles: where they lie, how they grow together, and what that costs in exactness."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medcli.engine.tiling import Floats, Grid, Span, bands, cut, default_overlap, fade, plan


@st.composite
def cuts(draw: st.DrawFn) -> tuple[int, int, int, int]:
    """length, tile, overlap and multiple that fit each other."""
    multiple = draw(st.sampled_from([1, 2, 16]))
    overlap = draw(st.integers(0, 6)) * multiple
    tile = overlap + draw(st.integers(1, 9)) * multiple + draw(st.integers(0, multiple - 1))
    return draw(st.integers(1, overlap + 7 * (tile - overlap))), tile, overlap, multiple


def blended(grid: Grid, source: Floats) -> Floats:
    """The whole image, from bands whose tiles are windows of `source`, (padded height, padded width, C)."""
    whole = np.full((grid.height, grid.width, source.shape[2]), np.nan, np.float32)
    for top, band in bands(grid, source.shape[2], lambda r, c: source[r.start : r.stop, c.start : c.stop].copy()):
        whole[top : top + len(band)] = band
    return whole


def _one_or_zero(chosen: tuple[Span, Span], rows: Span, columns: Span) -> Floats:
    return np.full((rows.size, columns.size, 1), float((rows, columns) == chosen), np.float32)


@given(cuts())
def test_tiles_are_equal_aligned_cover_all_and_share_enough(case: tuple[int, int, int, int]) -> None:
    length, tile, overlap, multiple = case
    spans = cut(length, tile, overlap, multiple)
    assert spans[0].start == 0
    assert 0 <= spans[-1].stop - length < multiple
    assert {span.size for span in spans} == {spans[0].size}
    assert spans[0].size <= max(tile, multiple)
    assert all(span.start % multiple == 0 and span.size % multiple == 0 for span in spans)
    assert all(left.stop - right.start >= overlap for left, right in pairwise(spans))


@given(cuts())
def test_no_cut_has_fewer_tiles(case: tuple[int, int, int, int]) -> None:
    length, tile, overlap, multiple = case
    fewer = len(cut(length, tile, overlap, multiple)) - 1
    most, shared = tile // multiple * multiple, -(-overlap // multiple) * multiple
    assert fewer == 0 or fewer * most - (fewer - 1) * shared < length


def test_a_side_a_little_too_long_is_halved_not_cut_into_a_large_and_a_small_tile() -> None:
    assert cut(1000, 768, 64, 16) == (Span(0, 544), Span(464, 1008))


def test_tile_0_and_a_large_enough_tile_are_the_whole() -> None:
    assert cut(1000, 0, 64, 16) == cut(1000, 1008, 64, 16) == (Span(0, 1008),)


def test_a_tile_that_is_all_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="leaves nothing"):
        cut(1000, 64, 64, 16)


@given(st.integers(0, 40), st.integers(-40, 40))
def test_weights_rise_from_nothing_at_the_cut_to_all(context_radius: int, room: int) -> None:
    shared = max(1, 2 * context_radius + room)
    weights = fade(shared, context_radius)
    distrusted = context_radius if 2 * context_radius <= shared else shared // 4
    assert bool((np.diff(weights) >= 0).all())
    assert weights[:distrusted].sum() == 0
    assert bool((weights[shared - distrusted :] == 1).all())
    assert np.allclose(weights + weights[::-1], 1, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(cuts(), cuts(), st.integers(0, 40))
def test_blending_equal_answers_returns_them_to_the_last_bit(
    down: tuple[int, int, int, int], right: tuple[int, int, int, int], context_radius: int
) -> None:
    (height, tile, overlap, multiple), width = down, right[0]
    grid = plan(height, width, tile=tile, overlap=overlap, multiple=multiple, context_radius=context_radius)
    source = np.random.default_rng(0).normal(size=(grid.rows[-1].stop, grid.columns[-1].stop, 2)).astype(np.float32)
    assert np.array_equal(blended(grid, source), source[:height, :width])


def test_weights_of_all_tiles_are_a_partition_of_unity() -> None:
    """The blend is linear in the tiles, so a tile's weights are what it makes of that tile as 1 and all others as 0."""
    grid = plan(90, 130, tile=48, overlap=16, multiple=8, context_radius=30)
    total = np.zeros((90, 130, 1), np.float32)
    for chosen in [(rows, columns) for rows in grid.rows for columns in grid.columns]:
        tiles = partial(_one_or_zero, chosen)
        weights = np.concatenate([band.copy() for _, band in bands(grid, 1, tiles)])
        assert weights.min() >= 0
        assert weights.sum() > 0
        total += weights
    assert np.allclose(total, 1, atol=1e-6)


@settings(deadline=None)
@given(cuts())
def test_bands_come_from_top_to_bottom_and_cover_every_row_once(case: tuple[int, int, int, int]) -> None:
    height, tile, overlap, multiple = case
    grid = plan(height, 5, tile=tile, overlap=overlap, multiple=multiple, context_radius=0)
    starts: list[int] = []

    def answer(rows: Span, columns: Span) -> Floats:
        starts.append(rows.start)
        return np.zeros((rows.size, columns.size, 1), np.float32)

    reached = 0
    for top, band in bands(grid, 1, answer):
        assert top == reached
        assert max(starts) == top  # a band is handed on before the next row of tiles is begun
        reached += len(band)
    assert reached == height
    assert len(starts) == len(grid)


def test_default_overlap_is_twice_the_reach_up_to_64_pixels() -> None:
    assert [default_overlap(context_radius, 16) for context_radius in (0, 1, 17, 200)] == [0, 16, 48, 64]
