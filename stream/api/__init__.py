"""The configuration API: definitions over REST, as tasks, with everything that describes them."""
