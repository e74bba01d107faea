"""The Python SDK (Trio). For the client the server is the attacker: every signature, membership and head is checked before it
is believed or a key is shared. Start with `open_client`; docs/sdk.md has an example that runs as it stands.
"""
