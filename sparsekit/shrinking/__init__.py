"""Models made smaller by what their masks have emptied."""

from sparsekit.shrinking.shrink import shrink

__all__ = ["shrink"]
