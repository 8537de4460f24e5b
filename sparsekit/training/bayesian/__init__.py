"""Methods that learn a distribution of every weight or unit, and remove what is noise."""

from sparsekit.training.bayesian.base import BayesianMethod
from sparsekit.training.bayesian.bayesian_compression import BayesianCompression
from sparsekit.training.bayesian.structured_bayesian import StructuredBayesian
from sparsekit.training.bayesian.variational_dropout import VariationalDropout

__all__ = ["BayesianCompression", "BayesianMethod", "StructuredBayesian", "VariationalDropout"]
