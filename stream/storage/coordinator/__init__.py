"""The coordinator moves files and slices through their states; it never touches bytes.

`triggers` decides when a slice or a file is rotated (pure); `operator` is the frame that all
operators share; one module per operator says what it watches and what it does.
"""
