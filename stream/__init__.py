"""Stream: ingests records over HTTP, stores them durably on disk, and imports them into tables."""

__version__ = "0.1.0"
