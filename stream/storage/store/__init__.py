"""The storage model in etcd: records, changes of files and slices, and queries."""
