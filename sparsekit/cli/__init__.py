"""The command line: ``sparsekit demo | info | methods | prune | plan | bench | report``."""

from sparsekit.cli.app import app, main

__all__ = ["app", "main"]
