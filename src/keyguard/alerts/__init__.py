"""Alerts: callers near their limits, forecasts, anomalies, a store out of order, overload: decided once, delivered."""

from __future__ import annotations

from keyguard.alerts.book import Alert, AlertBook, Delivery, Notice
from keyguard.alerts.messages import AlertMessage
from keyguard.alerts.observer import Alerts
from keyguard.alerts.receivers import AlertReceiver, Receiver, Webhook, notify, slack

__all__ = [
    "Alert",
    "AlertBook",
    "AlertMessage",
    "AlertReceiver",
    "Alerts",
    "Delivery",
    "Notice",
    "Receiver",
    "Webhook",
    "notify",
    "slack",
]
