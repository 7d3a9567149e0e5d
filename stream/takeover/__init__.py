"""Taking a cluster over from the original service, and giving it back.

What the original has in etcd and on its volumes is read as it is, so a takeover converts nothing:
`check` says what is there and what stands in the way. On the way back `give_back` writes what only
this service reads in the form of the original.
"""
