"""A provider, workers and a clock that are simulated: how much of what is possible a pool uses, and what it wastes."""
