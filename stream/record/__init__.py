"""The record: who sent it, when, its headers, and its body, parsed on first use."""
