"""The Go module for building etcd, and its build: ``python -m bundle.etcd TARGET``."""
