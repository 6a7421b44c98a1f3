"""Support the deployments: decide when to retrain, prepare the folder for it, and report the outcome."""
