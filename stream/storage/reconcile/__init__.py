"""The framework of operators, which move files and slices from one state to the next."""
