"""Methods against pairs: every image through every method, each result measured. The noisy input is a method too."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np

from medcli.batch.executors.dispatch import Executor, Lost
from medcli.batch.pairs import FilePairs, Floats, Pair, Pixels, SyntheticPairsFromFiles, as_floats, as_stored
from medcli.engine.classical import classical
from medcli.errors import MedcliError
from medcli.images.filling import broadcast
from medcli.images.values import ValueRange
from medcli.metrics import PER_IMAGE, Fid, Metric
from medcli.noise.base import Noise
from medcli.noise.gaussian import Gaussian

WARM_UP = 64  # side in pixels of the first, untimed call: what loads late should not count as slow


@dataclass(frozen=True)
class EvaluatedMethod:
    """A row of the table. restore: (H, W) or (H, W, 3), integers or floats, and which of its values are 0 and 1.

    It gives back the same shape, dtype and range.
    """

    name: str
    restore: Callable[[Pixels, ValueRange], Pixels]


@dataclass(frozen=True)
class Score:
    """One image after one method. values: metric -> figure, "psnr" always among them.

    change: PSNR gained over the noisy input, in dB. drawn: the noise with its level, empty for files.
    """

    image: str
    method: str
    values: Mapping[str, float]
    change: float
    seconds: float
    pixels: int
    drawn: str = ""


@dataclass(frozen=True)
class Result:
    """All scores, in the order they were made, and the FID of each method where it was requested."""

    scores: Sequence[Score]
    fid: Mapping[str, float]


def _untouched(noisy: Pixels, _values: ValueRange) -> Pixels:
    return noisy


IDENTITY = EvaluatedMethod("noisy input", _untouched)


def baseline(name: str, noise: Noise | None) -> EvaluatedMethod:
    """A classical denoiser with the known noise level where every image has the same; estimated elsewhere.

    Raises MedcliError where its package is missing.
    """
    sigma = known_sigma(noise)
    restore = classical(name, sigma)
    level = "sigma estimated" if sigma is None else f"sigma {sigma:g}"

    def scaled(noisy: Pixels, values: ValueRange) -> Pixels:
        return as_stored(restore(as_floats(noisy, values)), noisy.dtype, values)

    return EvaluatedMethod(f"{name} ({level})", scaled)


def baseline_on(name: str, noise: Noise | None, device: str) -> EvaluatedMethod:
    """As `baseline`, which computes on the CPU whatever the device."""
    return baseline(name, noise)


def known_sigma(noise: Noise | None) -> float | None:
    """Grey levels of 255 where the noise is Gaussian of one level and nothing else."""
    return noise.low if isinstance(noise, Gaussian) and noise.low == noise.high else None


Pairs = SyntheticPairsFromFiles | FilePairs


def evaluate(
    pairs: Iterable[Pair],
    methods: Sequence[EvaluatedMethod],
    metrics: Mapping[str, Metric],
    *,
    fid: bool = False,
    begin: Callable[[str], None] = lambda _: None,
) -> Result:
    """Scores of the noisy input and of each method, on the scale of the clean image, clipped to [0, 1].

    metrics: "psnr" must be among them. begin: called with a name before each image and method.
    Raises MedcliError, naming image and method, where an image cannot be restored or measured.
    """
    rows = [IDENTITY, *methods]
    distances = {method.name: Fid() for method in rows} if fid else {}
    scores: list[Score] = []
    for pair in pairs:
        if not scores:
            _warm_up(methods, pair)
        scores += _scores(pair, rows, metrics, distances, begin)
    return Result(scores, {name: distance.value() for name, distance in distances.items()})


@dataclass(frozen=True)
class EvalWork:
    """Scores single pairs, see `executors.dispatch.Work`; it can be pickled.

    methods: each makes a method for a device, by name. metrics: names, "psnr" among them.
    """

    pairs: Pairs
    methods: Sequence[Callable[[str], EvaluatedMethod]]
    metrics: Sequence[str]

    def opened(self, device: str) -> Callable[[int], list[Score] | MedcliError]:
        methods = [made(device) for made in self.methods]
        metrics = {name: PER_IMAGE[name].make() for name in self.metrics}
        cold = [True]

        def scores(number: int) -> list[Score] | MedcliError:
            try:
                pair = self.pairs[number]
                if cold and cold.pop():
                    _warm_up(methods, pair)
                return _scores(pair, [IDENTITY, *methods], metrics)
            except MedcliError as error:
                return error

        return scores


def evaluate_on(executor: Executor, work: EvalWork, begin: Callable[[str], None] = lambda _: None) -> Result:
    """The same scores as `evaluate` gives, by the workers of an executor. begin: called with the name of each image.

    Raises MedcliError, naming image and method, where an image cannot be restored or measured.
    """
    found: dict[int, list[Score]] = {}
    with closing(executor.run(work, range(len(work.pairs)))) as results:
        for number, result in results:
            if isinstance(result, MedcliError):
                raise result
            if isinstance(result, Lost):
                raise MedcliError(f"{work.pairs.name(number)}: the processes that worked on it died; one {result.how}.")
            found[number] = result
            begin(result[0].image)
    return Result([score for number in sorted(found) for score in found[number]], {})


def _scores(
    pair: Pair,
    rows: Sequence[EvaluatedMethod],
    metrics: Mapping[str, Metric],
    distances: Mapping[str, Fid] | None = None,
    begin: Callable[[str], None] = lambda _: None,
) -> list[Score]:
    """Of each row. Raises MedcliError that names image and method."""
    scores = []
    for method in rows:
        begin(f"{method.name}: {pair.name}")
        try:
            scores.append(_score(method, pair, metrics, (distances or {}).get(method.name)))
        except MedcliError as error:
            raise type(error)(f"{pair.name}, {method.name}: {error.problem}", error.hint) from error
    return scores


def _score(method: EvaluatedMethod, pair: Pair, metrics: Mapping[str, Metric], distance: Fid | None) -> Score:
    def scored(result: Pixels) -> Floats:
        floats = as_floats(result, pair.scale).clip(0, 1)
        return floats if pair.valid is None else np.where(broadcast(pair.valid, floats), floats, pair.clean)

    before = metrics["psnr"](scored(pair.noisy), pair.clean, pair.valid)
    started = time.perf_counter()
    output = method.restore(pair.noisy, pair.scale)
    seconds = time.perf_counter() - started
    restored = scored(output)
    values = {name: metric(restored, pair.clean, pair.valid) for name, metric in metrics.items()}
    if distance is not None:
        distance.add(restored, pair.clean)
    change = 0.0 if values["psnr"] == before else values["psnr"] - before  # two infinities have no difference
    height, width = pair.clean.shape[:2]
    return Score(pair.name, method.name, values, change, seconds, height * width, pair.drawn)


def _warm_up(methods: Sequence[EvaluatedMethod], pair: Pair) -> None:
    for method in methods:
        method.restore(pair.noisy[:WARM_UP, :WARM_UP].copy(), pair.scale)
