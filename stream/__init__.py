"""Stream: records over HTTP, durably on disk, in batches into tables."""

__version__ = "0.1.0"
