"""What users define: branches, sources and sinks, with their versions and lifecycle."""
