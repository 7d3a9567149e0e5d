"""The storage writer: appends groups of rows to slice files and syncs them to disk.

`disk` is one file in a thread; `appender` lets one sync serve many appends; `writer` opens files
for pipelines in the same process; `server` does so for other processes; `service` is the component.
"""
