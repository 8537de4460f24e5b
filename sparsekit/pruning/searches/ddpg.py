"""Deep deterministic policy gradients: an agent with one continuous action in [0, 1]."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sparsekit.pruning.searches.trials import chance

DECAY, SLOWNESS, BATCH = 0.95, 0.01, 64


@dataclass(frozen=True)
class Learner:
    """Sizes and speeds.

    Args:
        hidden: width of the two hidden layers.
        noise: standard deviation of the exploration, which falls by 5 % per learnt episode.
        learning_rate: of the actor; the critic's is ten times as high.
    """

    hidden: int
    noise: float
    learning_rate: float


class DDPG:
    """An actor that maps a state to an action, and a critic that says what a state and an action will earn.

    Both learn from a memory of transitions; their slow copies give the critic its targets. The reward less its moving
    average counts at every step, undiscounted.

    Args:
        features: length of a state.
        memory: transitions that are remembered.
        learner: sizes and speeds.
        seed: of weights, draws and batches.

    Source: Lillicrap et al. 2015, "Continuous Control with Deep Reinforcement Learning"; He et al. 2018, "AMC",
    section 3.2, for the truncated normal exploration and the baseline.
    """

    def __init__(self, features: int, memory: int, learner: Learner, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        with torch.inference_mode(False), chance(seed):
            self.actor = nn.Sequential(_network(features, learner.hidden), nn.Sigmoid())
            self.critic = _network(features + 1, learner.hidden)
        self.slow_actor, self.slow_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        pace = ((self.actor, learner.learning_rate), (self.critic, 10 * learner.learning_rate))
        self.optimizers = [torch.optim.Adam(network.parameters(), rate) for network, rate in pace]
        self.memory: deque[tuple[Tensor, float, float, Tensor, bool]] = deque(maxlen=memory)
        self.noise = learner.noise
        self.baseline: float | None = None

    def guess(self) -> float:
        """An action of no experience, uniform in [0, 1]."""
        return float(torch.rand((), generator=self.generator))

    def act(self, state: Tensor) -> float:
        """The actor's action, with noise from a normal distribution truncated to [0, 1]."""
        with torch.no_grad():
            mean = self.actor(state).double().squeeze()
        low, high = torch.special.ndtr(-mean / self.noise), torch.special.ndtr((1 - mean) / self.noise)
        uniform = torch.rand((), generator=self.generator, dtype=torch.float64)
        drawn = mean + self.noise * torch.special.ndtri(low + uniform * (high - low))
        return float(drawn.clamp(0.0, 1.0))

    def remember(self, states: Sequence[Tensor], actions: Sequence[float], reward: float) -> None:
        """Store an episode, whose reward counts at each of its steps."""
        following = [*states[1:], states[-1]]
        for step, (state, action) in enumerate(zip(states, actions)):
            self.memory.append((state, action, reward, following[step], step == len(states) - 1))

    def learn(self, updates: int) -> None:
        """Take ``updates`` steps of critic and actor, then explore a little less."""
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(updates):
                self._update()
        self.noise *= DECAY

    def _update(self) -> None:
        picked = torch.randint(len(self.memory), (BATCH,), generator=self.generator).tolist()
        chosen = [self.memory[index] for index in picked]
        state, following = torch.stack([c[0] for c in chosen]), torch.stack([c[3] for c in chosen])
        action, reward, last = (torch.tensor([[float(c[i])] for c in chosen]) for i in (1, 2, 4))
        mean = float(reward.mean())
        self.baseline = mean if self.baseline is None else DECAY * self.baseline + (1 - DECAY) * mean
        with torch.no_grad():
            later = self.slow_critic(torch.cat([following, self.slow_actor(following)], dim=1))
            goal = reward - self.baseline + (1 - last) * later
        losses = [
            lambda: -self.critic(torch.cat([state, self.actor(state)], dim=1)).mean(),
            lambda: (self.critic(torch.cat([state, action], dim=1)) - goal).square().mean(),
        ]
        for optimizer, loss in reversed(list(zip(self.optimizers, losses))):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()
        with torch.no_grad():
            for slow, fast in ((self.slow_actor, self.actor), (self.slow_critic, self.critic)):
                for old, new in zip(slow.parameters(), fast.parameters()):
                    old.lerp_(new, SLOWNESS)


def _network(inputs: int, hidden: int) -> nn.Sequential:
    """Two hidden layers, and an output that starts near 0."""
    out = nn.Linear(hidden, 1)
    nn.init.uniform_(out.weight, -3e-3, 3e-3)
    nn.init.zeros_(out.bias)
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), out)
