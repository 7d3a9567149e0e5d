"""The subcommands, one module for each; `stream.cli.main` imports only the one that is called."""
