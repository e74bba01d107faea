"""The command line ``chatty-admin``, one file a command group."""
