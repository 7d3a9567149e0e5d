"""Tests use the product's reactor and its clock."""

from stream.ops.process.reactor import install

install()
