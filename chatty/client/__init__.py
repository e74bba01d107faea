"""The Python SDK: imports wire, crypto, errors and ids, never the server."""
