"""PSNR and SSIM per image, as BasicSR defines them: on 8-bit values, so that saving a PNG changes nothing."""

import torch
from torch import Tensor

from gpen.data.image_io import to_uint8
from gpen.errors import UserError
from gpen.metrics.shared import filter_separably
from gpen.options.types import NonNegativeInt
from gpen.registry import METRIC_REGISTRY

_WINDOW = 11
_SIGMA = 1.5
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_LUMA = (65.481, 128.553, 24.966)  # weights of R, G, B in [0, 1]: BT.601, studio swing
_LUMA_OFFSET = 16.0


@METRIC_REGISTRY.register
def calculate_psnr(
    restored: Tensor,
    gt: Tensor,
    crop_border: NonNegativeInt = 0,
    test_y_channel: bool = False,
    match_colours: bool = False,
) -> Tensor:
    """Peak signal-to-noise ratio, 10 log10(255^2 / MSE), in dB, from 0; infinite where images are equal.

    Args:
        restored: N x 3 x H x W, [-1, 1].
        gt: the same.
        crop_border: pixels at each edge to leave out.
        test_y_channel: compare BT.601 luma instead of RGB.
        match_colours: first give each channel of the restored image the mean and standard deviation of the GT's, as
            VQFR's evaluation does.

    Returns:
        N values, float64.

    Raises:
        UserError: nothing is left after cropping.
    """
    a, b = _prepare(restored, gt, crop_border, test_y_channel, match_colours)
    _check_shapes(a, b, smallest=1)
    mean_squared_error = (a - b).square().mean(dim=(1, 2, 3))  # N
    return 10 * torch.log10(255.0**2 / mean_squared_error)


@METRIC_REGISTRY.register
def calculate_ssim(
    restored: Tensor,
    gt: Tensor,
    crop_border: NonNegativeInt = 0,
    test_y_channel: bool = False,
    match_colours: bool = False,
) -> Tensor:
    """Structural similarity (Wang et al. 2004, eq. 13): 11 x 11 Gaussian window, sigma 1.5, where it fits entirely.

    Args:
        restored: N x 3 x H x W, [-1, 1].
        gt: the same.
        crop_border: pixels at each edge to leave out.
        test_y_channel: compare BT.601 luma instead of the mean over R, G, B.
        match_colours: first give each channel of the restored image the mean and standard deviation of the GT's, as
            VQFR's evaluation does.

    Returns:
        N values, float64; 1 where the images are equal.

    Raises:
        UserError: after cropping, less than the window is left.
    """
    a, b = _prepare(restored, gt, crop_border, test_y_channel, match_colours)
    _check_shapes(a, b, smallest=_WINDOW)

    mean_a, mean_b = _blur(a), _blur(b)  # N x C x H-10 x W-10
    variance_a = _blur(a * a) - mean_a * mean_a
    variance_b = _blur(b * b) - mean_b * mean_b
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a.square() + mean_b.square() + _C1)
    structure = (2 * covariance + _C2) / (variance_a + variance_b + _C2)
    return (luminance * structure).mean(dim=(1, 2, 3))


def _prepare(
    restored: Tensor, gt: Tensor, crop_border: int, test_y_channel: bool, match_colours: bool
) -> tuple[Tensor, Tensor]:
    """Return both as N x C x H x W, float64, [0, 255]: three channels of 8-bit values, or unrounded luma in one."""
    a, b = (_to_pixels(images) for images in (restored, gt))
    if match_colours and a.shape == b.shape:
        a = _match_colours(a, b)

    height, width = a.shape[-2:]
    a, b = (values[..., crop_border : height - crop_border, crop_border : width - crop_border] for values in (a, b))
    if not test_y_channel:
        return a, b
    weights = a.new_tensor(_LUMA).view(1, 3, 1, 1)
    a, b = ((values / 255 * weights).sum(dim=1, keepdim=True) + _LUMA_OFFSET for values in (a, b))  # N x 1 x H x W
    return a, b


def _to_pixels(images: Tensor) -> Tensor:
    """Return 8-bit values as float64."""
    pixels = to_uint8(images)
    if pixels.device.type == 'mps':
        pixels = pixels.cpu()  # MPS has no float64
    return pixels.double()


def _match_colours(a: Tensor, b: Tensor) -> Tensor:
    """Return ``a`` with mean and standard deviation of ``b`` in each channel; a plain channel gets its mean alone."""
    (spread_a, mean_a), (spread_b, mean_b) = (
        torch.std_mean(values, dim=(2, 3), correction=0, keepdim=True) for values in (a, b)
    )
    return (a - mean_a) * torch.where(spread_a > 0, spread_b / spread_a, 0) + mean_b


def _check_shapes(a: Tensor, b: Tensor, smallest: int) -> None:
    if a.shape != b.shape:
        raise ValueError(f'images of different shapes: {tuple(a.shape)} and {tuple(b.shape)}')
    if min(a.shape[-2:]) < smallest:
        raise UserError(
            f'A metric needs images of at least {smallest} x {smallest} after crop_border, but {a.shape[-1]} x '
            f'{a.shape[-2]} is left. Lower crop_border or use larger images.'
        )


def _blur(values: Tensor) -> Tensor:
    """Filter each channel with the Gaussian window, where it fits: N x C x H x W -> N x C x H-10 x W-10."""
    offsets = torch.arange(_WINDOW, dtype=values.dtype, device=values.device) - _WINDOW // 2
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    window = window / window.sum()
    return filter_separably(values, window)
