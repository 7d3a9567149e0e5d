"""``python -m stream.cli`` is the command `stream`."""

from stream.cli.main import main

main()
