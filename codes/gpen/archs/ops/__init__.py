"""The StyleGAN2 operations; :mod:`gpen.archs.ops.reference` has a plain version of each under the same name."""

from gpen.archs.ops.activation import fused_leaky_relu
from gpen.archs.ops.linear import equal_linear
from gpen.archs.ops.modulated_conv import modulated_conv2d, sum_of_squares
from gpen.archs.ops.upfirdn import fir_filter, fir_upsample, make_fir_kernel

__all__ = [
    'equal_linear',
    'fir_filter',
    'fir_upsample',
    'fused_leaky_relu',
    'make_fir_kernel',
    'modulated_conv2d',
    'sum_of_squares',
]
