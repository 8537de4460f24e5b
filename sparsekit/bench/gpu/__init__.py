"""Benchmarks on a GPU: every kernel checked, tuned, and raced with what others offer. ``benchmarks/gpu.py`` runs it."""
