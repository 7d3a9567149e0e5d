"""From a record to the writer: which sinks and slices take it, and the group commit of their rows.

`router` knows the sinks and open slices of this node; a `sink_pipeline` balances the records of one
sink over its `slice_pipeline`s, each of which joins rows into groups, compresses and appends them.
"""
