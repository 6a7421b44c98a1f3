"""Present what was found in words and charts: in results/report.html, MLflow and Prefect."""
