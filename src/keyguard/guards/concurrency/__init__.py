"""Slots: how many requests may be under way at the same time."""

from keyguard.guards.concurrency.guard import Concurrency as Concurrency

__all__ = ["Concurrency"]
