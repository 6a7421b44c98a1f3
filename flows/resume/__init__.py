"""Keep checkpoints from which an interrupted search or training resumes."""
