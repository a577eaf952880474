"""What the call did against what the chain says: the keeper's one place where the state of sessions changes.

reconciler.py   what others call, one turn at a time: hints, changes of the chain, passing time, commands
memory.py       what is in memory: sessions, rooms, heartbeats, balances, feeds, deadlines
intake.py       taking hints: which room and session they are about, which are news, storing them
mass_end.py     the mass-end breaker: what it counts, holds and tells
sweep.py        looking at all sessions again, a few at a time
decisions.py    deciding, storing what was decided, then carrying it out
changes.py      following the chain: sessions that start, end, are retracted, are over for good
settlements.py  adding to a settlement what only the keeper knows
start.py        a start is reading: sessions, rooms, facts, actions that were left open
"""

from bot.reconciler.decisions import Effects
from bot.reconciler.memory import Conditions, Live
from bot.reconciler.reconciler import Reconciler

__all__ = ["Conditions", "Effects", "Live", "Reconciler"]
