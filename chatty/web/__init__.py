"""HTTP and WebSocket over Quart-Trio: one blueprint a feature."""
