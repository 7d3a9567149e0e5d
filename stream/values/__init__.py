"""Value types every layer shares: UTC time, duration, byte size, and the attrs ↔ JSON codec.

Nothing here does I/O or imports Twisted.
"""
