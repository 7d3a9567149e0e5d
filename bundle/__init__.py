"""Builds the single executable file with an interpreter, the service and all libraries.

``python -m bundle target/stream/service`` collects a self-contained tree (`bundle.interpreter`,
`bundle.distributions`, `bundle.native`), packs it (`bundle.pack`) and prepends a small static
launcher, which unpacks the tree once per version and executes Python.
"""
