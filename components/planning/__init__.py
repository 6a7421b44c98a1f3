"""The plan: what this machine does in the user's minutes, decided once and recorded before all else."""
