"""HTTP of the API: server, routes, authorisation, bodies, errors, streaming responses."""
