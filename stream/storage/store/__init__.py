"""The storage model in etcd: records, the changes of files and slices, and reads."""
