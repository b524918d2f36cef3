"""The degradation recipes built from BasicSR's functions, with which the benchmark compares ours.

Images are as in BasicSR: H x W x 3, float32, BGR, [0, 1]; random numbers come from the global states of ``random`` and
``numpy.random``.  Each recipe returns an image of the size of its input.

The numbers are those of the papers and of the option files published with them, as in ``gpen.data.degradations``:
GFPGAN's ``train_gfpgan_v1``, GPEN's training code, Real-ESRGAN's ``train_realesrgan_x4plus``, and BSRGAN; the results
of the last two are upscaled to the size of the input.
"""

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

_SCALE = 4  # factor by which Real-ESRGAN and BSRGAN downscale
_ANGLES = (-math.pi, math.pi)
_FILTERS = (cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC)
_KERNELS = ('iso', 'aniso', 'generalized_iso', 'generalized_aniso', 'plateau_iso', 'plateau_aniso')
_KERNEL_SHARES = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
_KERNEL_SIZES = tuple(range(7, 22, 2))


@dataclass(frozen=True)
class Plain:
    """BasicSR's side of the comparison.

    Attributes:
        decode: the bytes of an image file -> an image.
        recipes: by the names of ``benchmarks.data.RECIPES``, without those for which BasicSR has no functions.
        steps: by the names of ``benchmarks.data.STEPS``.
    """

    decode: Callable[[bytes], Image]
    recipes: dict[str, Recipe]
    steps: dict[str, Recipe]


def find_plain() -> Plain | None:
    """Return BasicSR's side, or None where ``basicsr`` is not installed.

    Raises:
        UserError: ``basicsr`` is installed but cannot be imported.
    """
    from gpen.registry.basicsr_package import import_basicsr, is_installed

    if not is_installed():
        return None
    import_basicsr()
    functions = importlib.import_module('basicsr.data.degradations')
    faces, general = _FaceRecipes(functions), _GeneralRecipes(functions)
    recipes: dict[str, Recipe] = {
        'gfpgan': faces.gfpgan,
        'gfpgan (no colours)': faces.gfpgan_without_colours,
        'gpen': faces.gpen,
        'realesrgan': general.realesrgan,
        'bsrgan': general.bsrgan,
        'simple': faces.simple,
    }
    steps: dict[str, Recipe] = {
        '41 x 41 blur': faces.blur,
        'noise': lambda image: functions.add_gaussian_noise(image, 10),
        'JPEG': lambda image: functions.add_jpg_compression(image, 80),
        'a quarter and back': _shrink_and_enlarge,
    }
    decode = partial(importlib.import_module('basicsr.utils').imfrombytes, float32=True)
    return Plain(decode, recipes, steps)


@dataclass(frozen=True)
class _Recipes:
    """Base of the recipes; ``functions`` is the module ``basicsr.data.degradations``."""

    functions: Any

    def _jpeg(self, image: Image, quality: Limits) -> Image:
        # random_add_jpg_compression passes OpenCV a quality that is no integer, which today's OpenCV refuses.
        return self.functions.add_jpg_compression(image, int(np.random.uniform(*quality)))


class _FaceRecipes(_Recipes):
    """One blur, one step of shrinking, noise, JPEG, and enlarging."""

    def gfpgan(self, image: Image) -> Image:
        """GFPGAN's recipe, with its changes of colour."""
        result = self._damage(image, (0.8, 8), (0, 20), (60, 100))
        if np.random.uniform() < 0.3:
            shift = np.random.uniform(-20 / 255, 20 / 255, 3).astype(np.float32)
            result = np.clip(result + shift, 0, 1)
        if np.random.uniform() < 0.01:
            result = _make_grey(result)
        if np.random.uniform() < 0.3:
            result = _jitter_colours(result)
        return _round(result)

    def gfpgan_without_colours(self, image: Image) -> Image:
        """GFPGAN's recipe without changes of colour."""
        return _round(self._damage(image, (0.8, 8), (0, 20), (60, 100)))

    def gpen(self, image: Image) -> Image:
        """The recipe of GPEN's published training code: one image in five is grey."""
        if np.random.uniform() < 0.2:
            image = _make_grey(image)
        return self._damage(image, (0.8, 8), (0, 20), (60, 100), _round)

    def simple(self, image: Image) -> Image:
        """Our own mild recipe; blur and downscaling grow with the square root of the size."""
        height, width = image.shape[:2]
        scale = (min(height, width) / 64) ** 0.5
        sigma = (0.6 * scale, 1.7 * scale)
        image = cv2.filter2D(image, -1, self.functions.random_mixed_kernels(['iso'], [1], 41, sigma, sigma))
        factor = np.random.uniform(max(1.6 * scale, 1), max(3.4 * scale, 1))
        image = _resize(image, round(height / factor), round(width / factor), cv2.INTER_AREA)
        image = self._jpeg(self.functions.random_add_gaussian_noise(image, (0, 12)), (60, 95))
        return _resize(image, height, width)

    def blur(self, image: Image) -> Image:
        """Blur with a 41 x 41 kernel, half of the time an isotropic one."""
        kernel = self.functions.random_mixed_kernels(['iso', 'aniso'], [0.5, 0.5], 41, (0.1, 10), (0.1, 10), _ANGLES)
        return cv2.filter2D(image, -1, kernel)

    def _damage(
        self, image: Image, times: Limits, noise: Limits, quality: Limits, before_enlarging: Recipe | None = None
    ) -> Image:
        height, width = image.shape[:2]
        image = self.blur(image)
        factor = np.random.uniform(*times)
        image = _resize(image, int(height // factor), int(width // factor))
        image = self._jpeg(self.functions.random_add_gaussian_noise(image, noise), quality)
        return _resize(before_enlarging(image) if before_enlarging else image, height, width)


class _GeneralRecipes(_Recipes):
    """Those made for any photograph."""

    def realesrgan(self, image: Image) -> Image:
        """Real-ESRGAN: blur, resize, noise and JPEG, twice over, and a sinc filter before or after the last JPEG."""
        height, width = image.shape[:2]

        # First round.
        image = self._blur(image, (0.2, 3))
        image = _resize_by(image, height, width, _draw_factor((0.2, 0.7, 0.1), (0.15, 1.5)))
        image = self._jpeg(self._add_noise(image, (1, 30), (0.05, 3)), (30, 95))

        # Second round.
        if np.random.uniform() < 0.8:
            image = self._blur(image, (0.2, 1.5))
        image = _resize_by(image, height, width, _draw_factor((0.3, 0.4, 0.3), (0.3, 1.2)) / _SCALE)
        image = self._add_noise(image, (1, 25), (0.05, 2.5))
        if np.random.uniform() < 0.5:
            image = self._jpeg(self._finish(image, height, width), (30, 95))
        else:
            image = self._finish(self._jpeg(image, (30, 95)), height, width)
        return _resize(_round(image), height, width)

    def _blur(self, image: Image, sigma: Limits) -> Image:
        """Blur by any of BasicSR's kernels, or one time in ten by a sinc filter."""
        size = random.choice(_KERNEL_SIZES)
        if np.random.uniform() < 0.1:
            cutoff = np.random.uniform(math.pi / (3 if size < 13 else 5), math.pi)
            return cv2.filter2D(image, -1, self.functions.circular_lowpass_kernel(cutoff, size))
        kernel = self.functions.random_mixed_kernels(
            _KERNELS, _KERNEL_SHARES, size, sigma, sigma, _ANGLES, betag_range=(0.5, 4), betap_range=(1, 2)
        )
        return cv2.filter2D(image, -1, kernel)

    def _add_noise(self, image: Image, sigma: Limits, scale: Limits) -> Image:
        if np.random.uniform() < 0.5:
            return self.functions.random_add_gaussian_noise(image, sigma, gray_prob=0.4)
        return self.functions.random_add_poisson_noise(image, scale, gray_prob=0.4)

    def _finish(self, image: Image, height: int, width: int) -> Image:
        """Bring an image to the final size; then, mostly, a sinc filter."""
        image = _resize_by(image, height, width, 1 / _SCALE)
        if np.random.uniform() >= 0.8:
            return image
        cutoff = np.random.uniform(math.pi / 3, math.pi)
        return cv2.filter2D(image, -1, self.functions.circular_lowpass_kernel(cutoff, random.choice(_KERNEL_SIZES)))

    def bsrgan(self, image: Image) -> Image:
        """BSRGAN: two blurs, two steps of shrinking, noise and JPEG in random order, then JPEG again."""
        height, width = image.shape[:2]
        scale = _SCALE
        if np.random.uniform() < 0.25:
            image, scale = _halve(image), 2
        small = image.shape[0] // scale, image.shape[1] // scale

        # Steps in random order; the step that shrinks to the final size comes after the other.
        steps = ['blur', 'blur', 'shrink', 'shrink to size', 'noise', 'jpeg']
        random.shuffle(steps)
        first, second = sorted(steps.index(step) for step in ('shrink', 'shrink to size'))
        steps[first], steps[second] = 'shrink', 'shrink to size'

        for step in steps:
            if step == 'blur':
                image = self._blur_by_gaussian(image, scale)
            elif step == 'shrink':
                image = self._shrink(image, scale)
            elif step == 'shrink to size':
                image = _resize(image, *small, random.choice(_FILTERS))
            elif step == 'noise':
                image = self._add_one_of_three_noises(image)
            elif np.random.uniform() < 0.9:
                image = self._jpeg(image, (30, 95))
        return _resize(self._jpeg(image, (30, 95)), height, width)

    def _blur_by_gaussian(self, image: Image, scale: int) -> Image:
        size = random.choice(range(7, 26, 2))
        if np.random.uniform() < 0.5:
            sigma_x, sigma_y = np.sqrt(np.random.uniform(0, 4 + scale, 2))
            angle = np.random.uniform(0, math.pi)
            kernel = self.functions.bivariate_Gaussian(size, sigma_x, sigma_y, angle, isotropic=False)
        else:
            sigma = np.random.uniform(0, 2 + 0.2 * scale)
            kernel = self.functions.bivariate_Gaussian(size, sigma, sigma, 0)
        return cv2.filter2D(image, -1, kernel)

    def _shrink(self, image: Image, scale: int) -> Image:
        """Downscale by up to twice the scale; or blur, and keep one pixel of each block."""
        height, width = image.shape[:2]
        if np.random.uniform() < 0.75:
            return _resize_by(image, height, width, 1 / np.random.uniform(1, 2 * scale))
        grid = self.functions.mesh_grid(25)[0] - (scale - 1) / 2  # the kernel's middle is the block's
        sigma = np.random.uniform(0.1, 0.6 * scale)
        kernel = self.functions.bivariate_Gaussian(25, sigma, sigma, 0, grid=grid)
        return cv2.filter2D(image, -1, kernel)[::scale, ::scale]

    def _add_one_of_three_noises(self, image: Image) -> Image:
        kind = np.random.uniform()
        if 0.4 <= kind <= 0.6:  # correlated between the channels
            rotation = np.linalg.svd(np.random.rand(3, 3))[0]
            covariance = np.abs(rotation.T @ np.diag(np.random.rand(3)) @ rotation) * (25 / 255) ** 2
            noise = np.random.multivariate_normal(np.zeros(3), covariance, image.shape[:2], check_valid='ignore')
            return np.clip(image + noise.astype(np.float32), 0, 1)
        return self.functions.add_gaussian_noise(image, random.randint(2, 25), gray_noise=kind < 0.4)


def _halve(image: Image) -> Image:
    """Return an image at half its size, half of the time as MATLAB does it."""
    if np.random.uniform() < 0.5:
        return _resize_by(image, image.shape[0], image.shape[1], 0.5)
    imresize = importlib.import_module('basicsr.utils.matlab_functions').imresize
    return np.clip(imresize(image, 0.5), 0, 1)


def _jitter_colours(image: Image) -> Image:
    """Change brightness, contrast, saturation and hue in random order by torchvision's functions, as GFPGAN does."""
    functions = importlib.import_module('torchvision.transforms.functional')
    changes = [
        (functions.adjust_brightness, 0.5, 1.5),
        (functions.adjust_contrast, 0.5, 1.5),
        (functions.adjust_saturation, 0, 1.5),
        (functions.adjust_hue, -0.1, 0.1),
    ]
    tensor = importlib.import_module('basicsr.utils').img2tensor(image, bgr2rgb=True, float32=True)  # 3 x H x W
    for index in np.random.permutation(len(changes)):
        change, lowest, highest = changes[index]
        tensor = change(tensor, float(np.random.uniform(lowest, highest)))
    return cv2.cvtColor(np.ascontiguousarray(tensor.permute(1, 2, 0).numpy()), cv2.COLOR_RGB2BGR)


def _make_grey(image: Image) -> Image:
    return np.tile(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[:, :, None], [1, 1, 3])


def _round(image: Image) -> Image:
    return np.clip((image * 255).round(), 0, 255) / 255


def _draw_factor(shares: Sequence[float], limits: Limits) -> float:
    """Return a factor above 1, below 1, or 1, with these ``shares``."""
    ranges = ((1, limits[1]), (limits[0], 1), (1, 1))
    return np.random.uniform(*random.choices(ranges, shares)[0])


def _resize(image: Image, height: int, width: int, method: int = cv2.INTER_LINEAR) -> Image:
    return cv2.resize(image, (max(width, 1), max(height, 1)), interpolation=method)


def _resize_by(image: Image, height: int, width: int, factor: float) -> Image:
    """Resize to ``factor`` times height x width by one of three methods."""
    return _resize(image, int(height * factor), int(width * factor), random.choice(_FILTERS))


def _shrink_and_enlarge(image: Image) -> Image:
    height, width = image.shape[:2]
    return _resize(_resize(image, height // 4, width // 4), height, width)
