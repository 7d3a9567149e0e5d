"""Tests run on the reactor of the product, with its clock."""

from stream.ops.process.reactor import install

install()
