"""Long random searches for faults, run by `make fuzz`. The unit tests contain short ones."""
