"""Development tools of this repository, called by the Makefile and not by the product."""
