"""The protections of an API gateway, inside the web app people already have."""

__version__ = "0.1.0"
