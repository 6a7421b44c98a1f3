"""The file that ships: exported, quantised, evaluated, compared."""
