"""The definitions of users: branches, sources and sinks; their versions, switching and deletion."""
