"""The storage model: entities, keys, states and decisions, as plain values and functions."""
