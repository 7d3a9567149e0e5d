"""Volumes on this machine's disks: how writer and reader find and lock them, and what is on them.

`recovery` says up to where a slice file can be read, whatever a crash left at its end.
"""
