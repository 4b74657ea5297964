"""Transports: how the flow of a request is carried out with the HTTP library that an app uses."""
