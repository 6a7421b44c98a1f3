"""What a person can set, in the shape of params.yaml: one file a section."""
