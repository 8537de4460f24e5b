"""Methods that train gates, or the weights behind a mask."""

from sparsekit.training.gates.base import GatedMethod
from sparsekit.training.gates.dynamic_network_surgery import DynamicNetworkSurgery
from sparsekit.training.gates.sr_ste import SRSTE

__all__ = ["SRSTE", "DynamicNetworkSurgery", "GatedMethod"]
