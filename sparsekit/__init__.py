"""Sparse neural networks that run faster: masks, packed formats, and the kernels that run them."""
