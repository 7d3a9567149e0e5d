"""The HTTP listener for records: parser, protocol, routes and answers."""
