"""Pictures of the pages, drawn from the code and from recorded data."""
