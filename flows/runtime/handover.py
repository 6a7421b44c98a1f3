"""What a flow hands a stage that it starts, in environment variables."""

REPORT = "ASSEMBLY_LINE_REPORT"
"""Environment variable: the file in which a failing stage leaves its exit code and sentence for the flow."""
PARENT_RUN = "ASSEMBLY_LINE_PARENT_RUN"
"""Environment variable: the MLflow run of the flow that this stage is part of."""
PREFECT_IDS = "ASSEMBLY_LINE_PREFECT"
"""Environment variable: `<flow run id> <task run id>`."""
