"""The nodes: weights, the strength of one corruption, and the restoration itself.

IMAGE is float32 (B, H, W, C) in [0, 1], MASK float32 (B, H, W) or (H, W) in [0, 1], as everywhere in ComfyUI.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import comfy.model_management
import comfy.utils
import folder_paths
import numpy as np
import torch
import torch.nn.functional as F
from tessera import Restorer, SamplingOptions
from tessera.data.corruptions.base import CORRUPTIONS
from tessera.data.corruptions.strength import estimators
from tessera.images.colour_fix import ColourFix
from tessera.models.diffusion.checkpoints.shipped import shipped_names, weights_file
from tessera.models.diffusion.sampling_options import Consistency, Wrap
from tessera.runtime.devices import Precision

FOLDER = "tessera"  # below ComfyUI's models/
CATEGORY = "image/tessera"
NONE = "none"
ROOM = (
    2 * 2**30
)  # bytes that other models give up on the device, for a batch of tiles; it halves where that is not enough
ESTIMATOR = "strengths"  # what the names of shipped estimators end in
FROM_IMAGE = ("no", "auto", "auto_map")


class Strength(NamedTuple):
    """How strong one corruption is: a number in [0, 1], or what the library reads; a mask scales it by pixel."""

    value: float | str
    mask: torch.Tensor | None = None


Strengths = Mapping[str, Strength]


def register_folder() -> None:
    """Have ComfyUI look for weights below models/tessera, and where its extra_model_paths.yaml says."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
    places, _ = folder_paths.folder_names_and_paths[FOLDER]
    folder_paths.folder_names_and_paths[FOLDER] = (places, {".safetensors"})


def file_of(name: str) -> Path:
    """The file of a name in a list of weights."""
    if name in shipped_names():
        return weights_file(name)
    return Path(folder_paths.get_full_path_or_raise(FOLDER, name))


register_folder()


class TesseraLoader:
    """Weights that come with Tessera, or a .safetensors file of models/tessera."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES = ("TESSERA_MODEL",)
    RETURN_NAMES = ("model",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The lists are read again whenever ComfyUI refreshes its nodes."""
        shipped, own = shipped_names(), folder_paths.get_filename_list(FOLDER)
        restorers = [name for name in shipped if not name.endswith(ESTIMATOR)]
        readers = [name for name in shipped if name.endswith(ESTIMATOR)]
        return {
            "required": {
                "weights": ([*restorers, *own], {"tooltip": "Shipped with Tessera, or a file of models/tessera"}),
                "precision": ([*get_args(Precision)], {"default": "fp32"}),
                "estimator": (
                    [*readers, NONE, *own],
                    {"tooltip": "Reads strengths that are auto from the image; none: only JPEG's can be read"},
                ),
            }
        }

    @classmethod
    def IS_CHANGED(cls, weights: str, precision: str, estimator: str) -> str:
        """A file that was replaced under the same name is loaded again."""
        files = [file_of(name) for name in (weights, estimator) if name != NONE]
        stamps = [f"{file}:{file.stat().st_mtime_ns}:{file.stat().st_size}" for file in files]
        return "|".join([*stamps, precision])

    def load(self, weights: str, precision: Precision, estimator: str) -> tuple[Restorer]:
        """Build the network on ComfyUI's device."""
        reader = None if estimator == NONE else file_of(estimator)
        device = comfy.model_management.get_torch_device()
        return (Restorer.from_checkpoint(file_of(weights), device, precision=precision, estimator=reader),)


class TesseraStrength:
    """How strong one corruption of the image is; several are chained."""

    CATEGORY = CATEGORY
    FUNCTION = "tell"
    RETURN_TYPES = ("TESSERA_STRENGTHS",)
    RETURN_NAMES = ("strengths",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Every corruption that Tessera knows; the model says which of them it was told in training."""
        return {
            "required": {
                "corruption": ([*CORRUPTIONS.names()], {"default": "jpeg"}),
                "strength": ("FLOAT", {"default": 0.2, "min": 0.0, "max": 1.0, "step": 0.01}),
                "from_image": ([*FROM_IMAGE], {"tooltip": "auto: read from the image; auto_map: for every pixel"}),
            },
            "optional": {
                "mask": ("MASK", {"tooltip": "Scales the strength pixel by pixel"}),
                "others": ("TESSERA_STRENGTHS",),
            },
        }

    def tell(
        self,
        corruption: str,
        strength: float,
        from_image: str,
        mask: torch.Tensor | None = None,
        others: Strengths | None = None,
    ) -> tuple[Strengths]:
        """Add one to the others. Raises ValueError for a mask on a strength that is read."""
        if mask is not None and from_image != "no":
            raise ValueError(f"{corruption}: a mask scales a number, but this strength is read; disconnect one of them")
        told = Strength(strength if from_image == "no" else from_image, mask)
        return ({**(others or {}), corruption: told},)


class TesseraRestore:
    """Restores every image of a batch; the result is the model's scale times as large, or as `scale` says."""

    CATEGORY = CATEGORY
    FUNCTION = "restore"
    RETURN_TYPES = ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The dials. A one-step student takes one step whatever is asked for."""
        samplers = [*SamplingOptions.choices.names()]
        return {
            "required": {
                "model": ("TESSERA_MODEL",),
                "image": ("IMAGE",),
                "steps": ("INT", {"default": 8, "min": 1, "max": 200}),
                "temperature": (
                    "FLOAT",
                    {"default": 0.15, "min": 0.0, "max": 2.0, "step": 0.05, "tooltip": "0 faithful, 1 invented detail"},
                ),
                "seed": ("INT", {"default": 0, "min": 0, "max": 2**32 - 1, "control_after_generate": True}),
                "sampler": (samplers, {"default": "ddim"}),
                "color_fix": ([*get_args(ColourFix)], {"default": NONE}),
                "tile": ("INT", {"default": -1, "min": -1, "max": 8192, "tooltip": "-1: as trained; 0: never tiled"}),
                "tile_batch_size": ("INT", {"default": 4, "min": 1, "max": 64}),
            },
            "optional": {
                "strengths": ("TESSERA_STRENGTHS", {"tooltip": "Unconnected: read from the image where possible"}),
                "mask": ("MASK", {"tooltip": "Scales all strengths that are numbers, pixel by pixel"}),
                "auto_default": ("FLOAT", {"default": 0.2, "min": 0.0, "max": 1.0, "step": 0.01}),
                "eta": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1.0, "step": 0.05, "tooltip": "Noise of ddim"}),
                "stop_at_snr": ("FLOAT", {"default": 0.0, "min": 0.0, "max": 1e6, "tooltip": "0: draws all detail"}),
                "blend": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "Share of the mean; not a student's",
                    },
                ),
                "scale": (
                    "FLOAT",
                    {"default": 0.0, "min": 0.0, "max": 16.0, "step": 0.05, "tooltip": "Of the result; 0: the model's"},
                ),
                "wrap": ([*get_args(Wrap)], {"default": NONE, "tooltip": "Seamless textures: edges that go on"}),
                "consistency": ([*get_args(Consistency)], {"default": NONE, "tooltip": "Keep the result to its input"}),
            },
        }

    def restore(
        self,
        model: Restorer,
        image: torch.Tensor,
        steps: int,
        temperature: float,
        seed: int,
        sampler: str,
        color_fix: ColourFix,
        tile: int,
        tile_batch_size: int,
        strengths: Strengths | None = None,
        mask: torch.Tensor | None = None,
        auto_default: float = 0.2,
        eta: float = 0.0,
        stop_at_snr: float = 0.0,
        blend: float = 0.0,
        scale: float = 0.0,
        wrap: Wrap = "none",
        consistency: Consistency = "none",
    ) -> tuple[torch.Tensor]:
        """One image after the other. Raises ConfigError, ValueError or TypeError with one line for the user."""
        options: dict[str, Any] = {"tile": None if tile < 0 else tile, "tile_batch_size": tile_batch_size}
        options |= {"wrap": wrap, "consistency": consistency}
        if sampler == "ddim":
            options["eta"] = eta
        given = _of_model(model, strengths, mask, auto_default)
        bar = comfy.utils.ProgressBar(len(image))
        comfy.model_management.free_memory(ROOM, model.run.device)
        restored = []
        for index, picture in enumerate(image):
            comfy.model_management.throw_exception_if_processing_interrupted()
            result = model(
                picture.clamp(0.0, 1.0).movedim(-1, 0),
                _for_picture(given, index, picture.shape[:2]),
                steps=steps,
                sampler=sampler,
                temperature=temperature,
                stop_at_snr=stop_at_snr or None,
                blend=blend,
                scale=scale or None,
                options=options,
                color_fix=color_fix,
                seed=seed,
                sample=index,
                auto_default=auto_default,
                progress=_progress(bar, index, len(image)),
            )
            restored.append(result.movedim(0, -1).float().clamp(0.0, 1.0))
        return (torch.stack(restored).to(comfy.model_management.intermediate_device()),)


def _progress(bar: Any, index: int, count: int) -> Callable[[int, int], None]:
    """What a restorer calls after every batch of tiles: moves the bar, and stops where the user pressed Cancel."""

    def tell(done: int, total: int) -> None:
        bar.update_absolute(index * total + done, count * total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return tell


def _of_model(
    model: Restorer, told: Strengths | None, mask: torch.Tensor | None, auto_default: float
) -> dict[str, Strength]:
    """The strengths of a call, all of them with a mask of their own or with that of all."""
    if not model.num_strengths:
        if told or mask is not None:
            raise ValueError("this model is told no strengths; disconnect strengths and mask")
        return {}
    if told is None:
        read = {*estimators(), *(model.estimator.names if model.estimator else ())}
        told = {
            name: Strength("auto" if name in read and mask is None else auto_default)
            for name in model.corruptions or ()
        }
    fixed = {name: one for name, one in told.items() if not isinstance(one.value, str)}
    if mask is not None and not fixed:
        raise ValueError("the mask scales strengths that are numbers, but all are read from the image; disconnect it")
    masked = {name: Strength(one.value, one.mask if one.mask is not None else mask) for name, one in fixed.items()}
    return {**told, **masked}


def _for_picture(told: Mapping[str, Strength], index: int, size: tuple[int, int]) -> dict[str, Any] | None:
    """As a `Restorer` takes them, for one image of a batch: numbers, auto, or arrays (H, W)."""
    if not told:
        return None
    return {
        name: one.value if one.mask is None else float(one.value) * _plane(one.mask, index, size)
        for name, one in told.items()
    }


def _plane(mask: torch.Tensor, index: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W): the mask of one image of a batch, its last one where there are fewer, at the size of the image."""
    planes = mask if mask.ndim == 3 else mask[None]
    plane = planes[min(index, len(planes) - 1)].float()
    if plane.shape != size:
        plane = F.interpolate(plane[None, None], size=tuple(size), mode="bilinear", align_corners=False)[0, 0]
    return plane.clamp(0.0, 1.0).cpu().numpy()
