"""Programs for the work on this repository; the Makefile calls them, the product doesn't."""
