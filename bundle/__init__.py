"""Makes the single executable file: an interpreter, the service and every library in one.

``python -m bundle target/stream/service`` collects a tree that runs anywhere on its own
(`bundle.interpreter`, `bundle.distributions`, `bundle.native`), packs it (`bundle.pack`) and puts
a small static launcher in front, which unpacks it once for each version and becomes Python.
"""
