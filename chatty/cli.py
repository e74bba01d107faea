"""The command ``chatty``: up, serve, demo."""
