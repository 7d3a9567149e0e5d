"""Long random searches for faults, run by `make fuzz`; short ones are among the unit tests."""
