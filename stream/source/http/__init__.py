"""The HTTP listener for records, with its parser, protocol, routes and answers."""
