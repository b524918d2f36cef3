"""The StyleGAN2 operations.  They have plain versions of the same names in :mod:`gpen.archs.ops.reference`."""

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
