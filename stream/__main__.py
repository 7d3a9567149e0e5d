"""``python -m stream`` runs the console script ``stream-service``."""

from stream.plugin import main

main()
