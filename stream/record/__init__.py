"""The record: its sender, time, headers, and body, which is parsed on first use."""
