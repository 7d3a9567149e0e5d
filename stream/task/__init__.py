"""Background tasks: one at a time for each object, with a result that can be polled."""
