"""Where records come in: which sources exist, and the listeners."""
