"""What users define: branches, sources and sinks; their versions, switching and deletion."""
