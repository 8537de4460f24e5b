"""The operators that torch.compile, torch.export and autograd see: the product and the convolution."""

from sparsekit.ops.checks import check_bias, check_images, check_operands, check_residual
from sparsekit.ops.convolution import call_conv2d, conv2d
from sparsekit.ops.linear import call_finished, call_linear, linear
from sparsekit.ops.names import REMEMBERED, kernel_names

__all__ = [
    "REMEMBERED",
    "call_conv2d",
    "call_finished",
    "call_linear",
    "check_bias",
    "check_images",
    "check_operands",
    "check_residual",
    "conv2d",
    "kernel_names",
    "linear",
]
