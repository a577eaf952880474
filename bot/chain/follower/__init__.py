"""Follows the contract's logs: from its deployment to the head, and along with the head.

Promises:
- The stored logs equal the canonical chain's logs of the contract at every block the follower reports.
- Rows and cursor move in one transaction.
- A restart resumes.
- A reorg of any depth above the finalized block retracts exactly what it took away, in one transaction with what the
  new branch brings, and names the sessions concerned, to be folded anew.
- A violation of finality stops the follower at what it has and says so, instead of corrupting the record; finality
  that merely stands still for hours is said, and stops nothing.
- A lower head alone is not a reorg: the node lags, and the follower waits for it. Of several nodes, one that lags or
  has strayed is not followed back in time: it is asked last until it is back.
- Logs that a node left out of a block it knew are found by a second look, and taken.
- It survives nodes that fail, refuse ranges or contradict themselves: it waits and asks again, with less if need be.
Doesn't promise: order between contracts, that a row above the finalized block stays, or what logs don't carry
(`bot.chain.details`).

How: polling the head is the truth. A websocket's header is taken at its word only when it is the child of the block
that the index has reached; any other one only wakes. Up to the finalized block, logs come in pages of block ranges.
Above it, every header is checked against its parent, and logs are asked for by block hash, so that a chain that moves
meanwhile can't mix two branches. The headers of that zone are kept, to find the common ancestor.

    follower     one pass after the other, and what each commits
    backfill     pages, with the next ones under way
    branch       headers and logs above the finalized block, and the common ancestor
    finality     how far nothing moves any more
    pushes       headers that a websocket announced, and its silence
    witnesses    what each of several nodes holds; the second look
"""

from bot.chain.follower.follower import Follower
from bot.chain.follower.news import Change, Head, Progress

__all__ = ["Change", "Follower", "Head", "Progress"]
