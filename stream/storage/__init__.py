"""Files, slices, volumes and statistics: the model (pure) and its repository in etcd.

A *file* is one import unit, a *slice* one upload unit of a file on one volume. The components that
move data and change states are in `writer`, `reader` and `coordinator`; they communicate only
through etcd.
"""
