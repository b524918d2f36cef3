"""The recipes as they are usually written with BasicSR's functions: what ours are measured against.

Images here are as in BasicSR: H x W x 3, float32, BGR, [0, 1]; random numbers come from the global states of ``random``
and ``numpy.random``.  Each recipe gives an image of the size that it is given, rounded to 8-bit steps.

The numbers are those of the papers and of the option files published with them: GFPGAN's ``train_gfpgan_v1``, GPEN's
training code and its paper (section 4.1), Real-ESRGAN's ``train_realesrgan_x4plus`` and BSRGAN (section 3), the last two
brought back to the size of what came in.
"""

from __future__ import annotations

import importlib
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

Image = np.ndarray
Recipe = Callable[[Image], Image]
Limits = tuple[float, float]

_ANGLES = (-math.pi, math.pi)
_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class Plain:
    """BasicSR's side of the comparison."""

    version: str
    decode: Callable[[bytes], Image]
    """The bytes of an image file -> an image."""
    recipes: dict[str, Recipe]
    """By the name that the recipe has in our registry; ``gpen (paper)`` is the other version of ``gpen``."""
    steps: dict[str, Callable[..., Image]]
    """Single steps: ``blur(image, sigma)``, ``noise(image, sigma)``, ``jpeg(image, quality)``,
    ``resize(image, size)``."""


def find_plain() -> Plain | None:
    """Return BasicSR's side, or None where ``basicsr`` is not installed.

    Raises:
        UserError: ``basicsr`` is installed but cannot be imported.
    """
    from gpen.utils.basicsr_bridge import names

    if not names('DATASET_REGISTRY'):  # imports basicsr, with what it needs under today's torchvision
        return None
    functions = importlib.import_module('basicsr.data.degradations')
    images = importlib.import_module('basicsr.utils')
    version = importlib.import_module('basicsr.version').__version__
    recipes = _Recipes(functions)
    return Plain(
        version=version,
        decode=partial(images.imfrombytes, float32=True),
        recipes={
            'gfpgan': recipes.gfpgan,
            'gpen': recipes.gpen,
            'gpen (paper)': recipes.gpen_paper,
            'realesrgan': recipes.realesrgan,
            'bsrgan': recipes.bsrgan,
            'simple': recipes.simple,
        },
        steps={
            'blur': recipes.blur_with,
            'noise': functions.add_gaussian_noise,
            'jpeg': functions.add_jpg_compression,
            'resize': lambda image, size: cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR),
        },
    )


class _Recipes:
    """The recipes; ``functions`` is ``basicsr.data.degradations``."""

    def __init__(self, functions: Any) -> None:
        self.functions = functions

    def blur_with(self, image: Image, sigma: float) -> Image:
        """Blur by a 41 x 41 Gaussian kernel of one deviation."""
        return cv2.filter2D(image, -1, self.functions.bivariate_Gaussian(41, sigma, sigma, 0))

    def gfpgan(self, image: Image) -> Image:
        """GFPGAN: blurred, made smaller, noise, JPEG, enlarged again; now and then shifted colours, or grey."""
        height, width = image.shape[:2]
        small = self._shrink_with_noise(self._blur_faces(image), (0.8, 8), (0, 20), (60, 100))
        result = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
        if np.random.uniform() < 0.3:
            shift = np.random.uniform(-20 / 255, 20 / 255, 3).astype(np.float32)
            result = np.clip(result + shift, 0, 1)
        if np.random.uniform() < 0.01:
            result = _make_grey(result)
        return _round(result)

    def gpen(self, image: Image) -> Image:
        """GPEN's published training code: one in five grey, then nearly GFPGAN's steps."""
        height, width = image.shape[:2]
        if np.random.uniform() < 0.2:
            image = _make_grey(image)
        small = self._shrink_with_noise(self._blur_faces(image), (0.8, 8), (0, 20), (60, 100))
        return cv2.resize(_round(small), (width, height), interpolation=cv2.INTER_LINEAR)

    def gpen_paper(self, image: Image) -> Image:
        """GPEN's paper: the same steps, far harder, and no grey."""
        height, width = image.shape[:2]
        small = self._shrink_with_noise(self._blur_faces(image), (10, 200), (0, 25), (5, 50))
        return cv2.resize(_round(small), (width, height), interpolation=cv2.INTER_LINEAR)

    def _blur_faces(self, image: Image) -> Image:
        kernel = self.functions.random_mixed_kernels(['iso', 'aniso'], [0.5, 0.5], 41, (0.1, 10), (0.1, 10), _ANGLES)
        return cv2.filter2D(image, -1, kernel)

    def _shrink_with_noise(self, image: Image, times: Limits, noise: Limits, quality: Limits) -> Image:
        height, width = image.shape[:2]
        scale = np.random.uniform(*times)
        size = (max(int(width // scale), 1), max(int(height // scale), 1))
        small = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        return self._jpeg(self.functions.random_add_gaussian_noise(small, noise), quality)

    def _jpeg(self, image: Image, quality: Limits) -> Image:
        # random_add_jpg_compression hands OpenCV a quality that is no integer, which today's OpenCV refuses.
        return self.functions.add_jpg_compression(image, int(np.random.uniform(*quality)))


def _make_grey(image: Image) -> Image:
    return np.tile(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None], [1, 1, 3])


def _round(image: Image) -> Image:
    return np.clip((image * 255).round(), 0, 255) / 255
