"""What deployments need: when to retrain, where, and whom to tell."""
