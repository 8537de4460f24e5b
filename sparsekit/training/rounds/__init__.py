"""Methods that train, prune and train again, round by round."""

from sparsekit.training.rounds.base import RoundMethod
from sparsekit.training.rounds.iterative import IterativePruning
from sparsekit.training.rounds.learning_rate_rewinding import LearningRateRewinding
from sparsekit.training.rounds.lottery_ticket import LotteryTicket

__all__ = ["IterativePruning", "LearningRateRewinding", "LotteryTicket", "RoundMethod"]
