"""From a record to the writer: routing to sinks and slices, and group commit of rows.

`router` tracks the sinks and open slices of this node. A `sink_pipeline` balances the records of
one sink over its `slice_pipeline`s, each of which joins rows into groups, compresses and appends
them.
"""
