"""What was found, in words and charts: results/report.html, MLflow and Prefect."""
