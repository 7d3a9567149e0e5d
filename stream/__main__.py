"""``python -m stream`` is the console script ``stream-service``."""

from stream.plugin import main

main()
