"""The command line: ``sparsekit demo | info | prune | plan | bench``."""

from sparsekit.cli.app import app, main

__all__ = ["app", "main"]
