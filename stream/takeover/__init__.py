"""Takeover of a cluster from the original service, and the way back.

The original's data in etcd and on volumes is read unchanged, so a takeover converts nothing:
`check` reports the data and its problems. On the way back, `give_back` writes data that only this
service reads in the form of the original.
"""
