"""Generated pages of the documentation, made from declarations in the source."""
