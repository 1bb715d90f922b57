"""Training: episodes of rollout, loss, gradient and optimizer."""

from atheria_lab.training.losses import LOSSES, Trajectory
from atheria_lab.training.report import EpisodeReport
from atheria_lab.training.timeline import Timeline
from atheria_lab.training.trainer import Trainer

__all__ = ["LOSSES", "EpisodeReport", "Timeline", "Trainer", "Trajectory"]
