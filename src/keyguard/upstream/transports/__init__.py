"""What HTTP libraries are given, so that their requests take a key of the pool: one module a library.

Each is a rim around the same flow (`keyguard.upstream.attempt`). It copies the request, from which its library may
build redirects, takes all credentials off the copy, and sets one. A library is loaded by nothing but its own module.
"""
