"""The parts of HTTP: addresses, paths, dates, and fields, read as the standards have it. No I/O."""
