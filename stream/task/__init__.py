"""Background tasks: at most one at a time for each object; callers can poll the result."""
