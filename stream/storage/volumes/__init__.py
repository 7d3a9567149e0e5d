"""Volumes on this machine's disks: discovery, locks and content, for the writer and the reader.

`recovery` determines the readable part of a slice file after a crash.
"""
