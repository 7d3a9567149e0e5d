"""The storage writer: appends groups of rows to slice files and syncs them to disk.

`disk` is one file in a thread; `appender` makes one sync serve many appends; `writer` opens files
for pipelines in the same process; `server` does it for other processes; `service` is the component.
"""
