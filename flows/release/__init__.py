"""Decide which model ships: the gate, what it measures, its decision, and the registry's aliases."""
