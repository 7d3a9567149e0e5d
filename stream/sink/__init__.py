"""The path from a record to the writer: routing to sinks and slices, and group commit.

`router` tracks the sinks and open slices of this node. A `sink_pipeline` balances the records of
one sink over its `slice_pipeline`s. Each of these joins rows into groups, compresses them and
appends them.
"""
