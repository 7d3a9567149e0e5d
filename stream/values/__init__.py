"""Value types for all layers: UTC time, duration, byte size, and the attrs ↔ JSON codec.

The package does no I/O and doesn't import Twisted.
"""
