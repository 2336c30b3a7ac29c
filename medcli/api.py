"""The Python interface: load a model by name, denoise arrays and files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medcli.engine.denoiser import Denoiser
from medcli.engine.options import EngineOptions
from medcli.engine.page import restore_page
from medcli.engine.runtimes.base import Runtime
from medcli.engine.runtimes.choice import check_runtime, choose_runtime
from medcli.errors import InputError, ModelError
from medcli.images import Page, read
from medcli.images.values import ValueRange, as_choice
from medcli.zoo.model import Model, find_model


def load(
    name: str | Path | Model = "photo",
    *,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    tile: int | Literal["auto"] = "auto",
    overlap: int | None = None,
    ensemble: bool = False,
    sharpen: float = 0.0,
    sharpen_by: Literal["value", "rgb"] = "value",
    refine: int | None = None,
    samples: int | None = None,
    seed: int | None = None,
    range: str | tuple[float, float] | ValueRange = "auto",
    nodata: float | None = None,
    vst: bool = False,
    gain: float | None = None,
    offset: float | None = None,
    read_noise: float | None = None,
) -> Denoiser:
    """A denoiser with its model loaded, to be called with arrays.

    name: of a model, a weight file, the folder of a training run, or a model found before.
    device: auto, cpu, cuda, cuda:N or mps.
    precision: auto, fp32, fp16 or bf16. runtime: auto, torch, onnx or openvino; see `medcli.engine.runtimes.choice`.
    tile: side in pixels, 0 for the whole image at once, or auto: by free memory.
    overlap: pixels, None for what the network needs. ensemble: the mean of eight flips and turns, eight times the work.
    sharpen: amount of unsharp masking of the result, 0.2 is usual. sharpen_by: "value" (which keeps hues) or "rgb".
    refine, samples, seed: of models that hide pixels, see `medcli.engine.blind_spot` and, where samples are passes,
        `medcli.engine.bernoulli`; None for the model's own.
    range: which values are black and white: auto (by the image, see `medcli.images.values`), dtype, or (low, high).
    nodata: a value that means nothing, beside NaN and infinity.
    vst: whether the noise of gray images is that of a photon counter and is made Gaussian before the network and back
    after it. gain, offset, read_noise: of that noise in the image's values, see `medcli.engine.stabilised`; what is
    None is measured on each image. Any of the three implies vst.

    Raises ModelError for an unknown or corrupt model, or options of blind-spot models for another one,
    DeviceError for a device that is not there.
    """
    model = name if isinstance(name, Model) else find_model(str(name))
    options = EngineOptions(
        device=device,
        precision=precision,
        runtime=runtime,
        tile=tile,
        overlap=overlap,
        ensemble=ensemble,
        sharpen=sharpen,
        sharpen_by=sharpen_by,
        refine=refine,
        samples=samples,
        seed=seed,
        range=as_choice(range),
        nodata=nodata,
        vst=vst,
        gain=gain,
        offset=offset,
        read_noise=read_noise,
    )
    return load_model(model, options)


def load_model(model: Model, options: EngineOptions, *, pixels: int | None = None) -> Denoiser:
    """As `load`, for a model that is found already. Raises ModelError and DeviceError.

    pixels: of all images that it is for, where that is known; it decides which runtime ends soonest.
    """
    return Denoiser(
        _runtime(model, options, pixels),
        tile=options.tile,
        overlap=options.overlap,
        range=options.range,
        nodata=options.nodata,
        keep_brightness=not model.inpaints,
        sharpen=options.sharpen,
        sharpen_by_value=options.sharpen_by == "value",
    )


def _runtime(model: Model, options: EngineOptions, pixels: int | None) -> Runtime:
    """The runtime that is named, or the one that ends soonest. PyTorch is imported only where it is used."""
    settings = options.blind_spot_settings()
    if settings:
        model.require_blind_spot(settings)
    plain = not options.ensemble and options.photon_noise() is None and model.card.strategy == "plain"
    name = options.runtime
    if name == "auto":
        name = choose_runtime(options.device, options.precision, plain=plain and model.has_graph, pixels=pixels)
    elif name != "torch":
        check_runtime(name, options.device, options.precision, plain=plain)
    if name == "torch":
        return _torch_runtime(model, options)
    try:
        return _graph_runtime(name, model, options)
    except ModelError:
        if options.runtime != "auto":
            raise
        return _torch_runtime(model, options)  # which knows the defaults of configurations, and what is damaged


def _graph_runtime(name: str, model: Model, options: EngineOptions) -> Runtime:
    graph, traits = model.graph()
    if name == "onnx":
        from medcli.engine.runtimes.onnx import OnnxRuntime

        return OnnxRuntime(graph, traits)
    from medcli.engine.runtimes.openvino import OpenVinoRuntime

    return OpenVinoRuntime(graph, traits, precision=options.precision, half_safe=model.card.half_safe)


def _torch_runtime(model: Model, options: EngineOptions) -> Runtime:
    from medcli.engine.runtimes.pytorch import TorchRuntime
    from medcli.engine.stabilised import Stabilised
    from medcli.engine.strategies import Flips, parse

    strategy = parse(model.card.strategy)
    if settings := options.blind_spot_settings():
        named = {model.card.mask_options[name]: value for name, value in settings.items()}
        strategy = replace(strategy, **named)  # type: ignore[type-var]
    if (known := options.photon_noise()) is not None:
        gain, offset, read = known
        outer = strategy if isinstance(strategy, Stabilised) else Stabilised(inner=strategy)
        strategy = replace(outer, gain=gain, offset=offset, read=read)
    return TorchRuntime(
        model.network(),
        Flips(strategy) if options.ensemble else strategy,
        device=options.device,
        precision=options.precision,
        half_safe=model.card.half_safe,
    )


def load_on(model: Model, options: EngineOptions, device: str, pixels: int | None = None) -> Denoiser:
    """As `load_model`, on a device of its own, as a worker has it."""
    return load_model(model, replace(options, device=device), pixels=pixels)


def denoise(
    image: NDArray[Any] | str | Path,
    model: str | Path = "photo",
    *,
    strength: float = 1.0,
    device: str = "auto",
    precision: str = "auto",
    runtime: str = "auto",
    tile: int | Literal["auto"] = "auto",
    ensemble: bool = False,
    range: str | tuple[float, float] | ValueRange = "auto",
    nodata: float | None = None,
) -> NDArray[Any]:
    """The denoised image, in the shape and dtype of the input.

    image: (H, W) gray, (H, W, 2) gray and alpha, (H, W, 3) RGB or (H, W, 4) RGB and alpha; boolean, integers of
    up to 32 bits or float. A path is read first; the result has the file's channels and depth. Alpha comes back
    untouched, and so does the colour under alpha 0.
    strength: 0 gives the image back, 1 is the network's output, between them a blend.
    range: which values are black and white: auto (by the image, see `medcli.images.values`), dtype, or (low, high).
    nodata: a value that means nothing and comes back as it is, as NaN and infinity do; None for that of the file.

    To denoise many images, `load` once and call what it returns. Raises InputError for a file that is no image or
    has several pages, ModelError and DeviceError as `load` does.
    """
    page = _page(image) if isinstance(image, np.ndarray) else _only_page(Path(image))
    options = EngineOptions(
        device=device,
        precision=precision,
        runtime=runtime,
        tile=tile,
        ensemble=ensemble,
        range=as_choice(range),
        nodata=page.nodata if nodata is None else nodata,
    )
    height, width = page.pixels.shape[:2]
    engine = load_model(find_model(str(model)), options, pixels=height * width)
    restored = restore_page(page, engine, strength)
    return restored.pixels if restored.alpha is None else np.dstack([restored.pixels, restored.alpha])


def _page(array: NDArray[Any]) -> Page:
    """An array as a page: a second or fourth channel is alpha."""
    if array.ndim == 3 and array.shape[2] in (2, 4):
        colour = array[..., 0] if array.shape[2] == 2 else array[..., :3]
        return Page(np.ascontiguousarray(colour), array[..., -1])
    return Page(array, None)


def _only_page(path: Path) -> Page:
    image = read(path)
    if len(image.pages) != 1:
        raise InputError(f"{path} has {len(image.pages)} pages.", "Use 'med denoise', or medcli.load and each page.")
    return image.pages[0]
