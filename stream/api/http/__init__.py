"""The HTTP layer of the API: server, routes, authorization, bodies, errors, streaming responses."""
