"""The record: its sender, time, headers, and body, parsed on first use."""
