"""The coordinator moves files and slices through their states; it never reads their data.

`triggers` decides when a slice or a file is rotated (pure). `operator` is the framework of all
operators. Each operator has a module that defines what it watches and does.
"""
