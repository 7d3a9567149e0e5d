"""The storage writer: appends groups of rows to slice files and syncs them to disk.

`disk` handles one file in a thread; `appender` lets one sync serve many appends; `writer` opens
files for pipelines in the same process, and `server` for other processes; `service` is the
component.
"""
