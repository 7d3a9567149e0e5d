"""The subcommands, one module each; `stream.cli.main` imports only the one that is called."""
