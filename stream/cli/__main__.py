"""``python -m stream.cli`` runs the command `stream`."""

from stream.cli.main import main

main()
