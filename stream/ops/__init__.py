"""What an operator sees: the log, the metrics and where they are served, ids to find things by."""
