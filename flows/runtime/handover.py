"""Name the environment variables that a flow sets for a stage that it starts."""

REPORT = "ASSEMBLY_LINE_REPORT"
"""The file in which a failing stage leaves its exit code and sentence for the flow."""
PARENT_RUN = "ASSEMBLY_LINE_PARENT_RUN"
"""The id of the flow's MLflow run, in which the stage's run nests."""
PREFECT_IDS = "ASSEMBLY_LINE_PREFECT"
"""The stage's Prefect ids: `<flow run id> <task run id>`."""
