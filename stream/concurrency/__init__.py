"""Helpers for Twisted's reactor that all packages use: waiters, deadlines, child processes.

The package doesn't depend on the product.
"""
