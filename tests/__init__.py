"""Tests run on the reactor of the product, with its clock."""

from stream.ops.reactor import install

install()
