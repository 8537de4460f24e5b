"""Convolutional networks: a small one that learns digits, judged and timed, and two large ones that are only timed."""
