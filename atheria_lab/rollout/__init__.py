"""Rollouts: many steps, differentiable, within a memory budget."""

from atheria_lab.rollout.execute import Rollout, rollout
from atheria_lab.rollout.planner import BudgetError, PlanCost, RolloutPlan, plan_rollout
from atheria_lab.rollout.saveat import SaveAt

__all__ = [
    "BudgetError",
    "PlanCost",
    "Rollout",
    "RolloutPlan",
    "SaveAt",
    "plan_rollout",
    "rollout",
]
