"""Budgets of tokens, for apps that pass on requests to language models."""

from keyguard.guards.token_budget.guard import TokenBudget as TokenBudget

__all__ = ["TokenBudget"]
