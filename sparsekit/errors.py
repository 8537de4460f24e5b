"""The exceptions of sparsekit.

Each of them says what was expected, what came, and the parameter or layer it came from::

    SparsekitError
    ├── PatternError        an impossible pattern or sparsity (also a ValueError)
    ├── MaskError           a mask of the wrong shape, dtype or device, or one its pattern does not admit
    ├── LayerError          an unknown layer, or a layer that cannot be handled (meta device, int8 weight)
    ├── PruningError        a method that cannot run on what it was given
    │   └── CalibrationError    no batches, empty batches, or batches the model refuses
    ├── FormatError         a packed weight whose parts do not belong together
    ├── KernelError         no kernel runs the problem; carries each kernel's reason
    ├── InputError          an input of the wrong dtype, device or shape, or example inputs a model refuses
    └── CheckpointError     a file that cannot be read into the model

Warnings are :class:`SparsekitWarning`.
"""


class SparsekitError(Exception):
    """The root of every error that sparsekit raises on purpose."""


class PatternError(SparsekitError, ValueError):
    """A pattern or a sparsity that cannot exist, such as 5:4 or a sparsity of 1."""


class MaskError(SparsekitError, ValueError):
    """A mask of the wrong shape, dtype or device, or one that its pattern does not admit."""


class LayerError(SparsekitError, ValueError):
    """A layer that is not there, or whose weight cannot be pruned or packed."""


class PruningError(SparsekitError, ValueError):
    """A criterion, solver or allocation that cannot run on what it was given."""


class CalibrationError(PruningError):
    """Calibration batches that are missing, empty, or refused by the model."""


class FormatError(SparsekitError, ValueError):
    """A packed weight whose parts do not belong together."""


class KernelError(SparsekitError, RuntimeError):
    """No kernel runs the problem; the message lists each kernel's reason."""


class InputError(SparsekitError, ValueError):
    """An input of the wrong dtype, device or shape, or example inputs that the model refuses."""


class CheckpointError(SparsekitError, ValueError):
    """A checkpoint that cannot be read, or that does not belong to the model."""


class SparsekitWarning(UserWarning):
    """Something is not as good as it could be, and the work goes on."""
