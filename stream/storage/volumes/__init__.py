"""Volumes on this machine's disks: discovery, locks and content, for writer and reader.

`recovery` determines the readable part of a slice file after a crash.
"""
