"""`python -m flows` lists the commands."""

from flows.commands import listing

print(listing())
