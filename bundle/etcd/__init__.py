"""The Go module that etcd is built from, and what builds it: ``python -m bundle.etcd TARGET``."""
