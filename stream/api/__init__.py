"""The configuration API: definitions over REST, changed in tasks, with their documentation."""
