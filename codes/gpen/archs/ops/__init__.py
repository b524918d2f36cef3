"""The StyleGAN2 operations; :mod:`gpen.archs.ops.reference` has a plain version of each under the same name."""

from gpen.archs.ops.activation import GAIN, concat_leaky_relu, join, leaky_relu_
from gpen.archs.ops.conv import conv2d, conv_transpose2d
from gpen.archs.ops.linear import equal_linear
from gpen.archs.ops.modulated_conv import modulated_conv2d, sum_of_squares
from gpen.archs.ops.upfirdn import fir_filter, fir_upsample, make_fir_kernel

__all__ = [
    'GAIN',
    'concat_leaky_relu',
    'conv2d',
    'conv_transpose2d',
    'equal_linear',
    'fir_filter',
    'fir_upsample',
    'join',
    'leaky_relu_',
    'make_fir_kernel',
    'modulated_conv2d',
    'sum_of_squares',
]
