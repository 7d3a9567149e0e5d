"""Takeover of a cluster from the original service, and its return to the original.

Stream reads the original's data in etcd and on volumes unchanged, so a takeover converts nothing;
`check` reports the data and its problems. Before the original is used again, `give_back` converts
data that only this service can read to the original's format.
"""
