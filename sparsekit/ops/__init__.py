"""The operators that torch.compile, torch.export and autograd see: the product and the convolution."""

from sparsekit.ops.checks import check_bias, check_images, check_operands
from sparsekit.ops.convolution import call_conv2d, conv2d
from sparsekit.ops.linear import call_linear, linear
from sparsekit.ops.names import REMEMBERED, kernel_names

__all__ = [
    "REMEMBERED",
    "call_conv2d",
    "call_linear",
    "check_bias",
    "check_images",
    "check_operands",
    "conv2d",
    "kernel_names",
    "linear",
]
