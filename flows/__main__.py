"""List the commands: `python -m flows`."""

from flows.commands import listing

print(listing())
