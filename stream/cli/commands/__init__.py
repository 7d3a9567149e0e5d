"""The subcommands, a module each; `stream.cli.main` imports only the one that is called."""
