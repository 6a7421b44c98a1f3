"""MLflow: the connection, runs, registered models, and the records that wait for it."""
