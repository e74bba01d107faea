"""Chatty: a self-hosted, end-to-end encrypted chat server."""

__version__ = "0.1.0"
