"""PostgreSQL: connection, pool, migrations, one class a feature, and the embedded server."""
