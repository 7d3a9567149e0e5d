"""General helpers for Twisted's reactor, such as waiters, deadlines and child processes.

The package doesn't depend on the product.
"""
