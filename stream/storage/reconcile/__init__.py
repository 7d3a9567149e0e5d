"""The frame of operators, which bring files and slices from one state to the next."""
