"""Record runs and models in MLflow: the connection, runs, registered models, and records that wait to be sent."""
