"""Ends sessions on chain.

Promises
 - Every transaction was stored, signed, durably, before its first byte left.
 - At most one effective settlement per session: while a nonce signed for a session may still be used, nothing is
   signed for that session at another nonce. If a reorg deeper than CONFIRMATIONS brings one back, one of the two is
   retracted.
 - After a crash each stored, unmined transaction is accounted for before anything new is signed: looked up; said
   again only if its session still holds at the newest block and its end is due; else retracted at its own nonce.
 - A stored transaction counts as broadcast, unless it was dropped before a byte of it left.
 - It never pays more than its caps.
 - It never reports an end that `SessionEnded` with the expected id, in the receipt, doesn't prove.
Doesn't promise inclusion time; nor, in direct mode, that the tutor's slot can't change between the last look and
inclusion: `endSession(tutor)` names no session. The gap is narrowed (a look at every block, retraction) and what
slips through is reported as `alert.wrong-session`.

Crash windows, by number, here and in the tests:
  W1 decided, nothing stored        → the action is open; it is checked and signed as if new
  W2 stored, not broadcast          → looked up, unknown; said again or retracted. So is what was signed ahead of the
                                      chain's answer and not dropped yet
  W3 broadcast, not marked as sent  → looked up, known or mined
  W4 sent, no receipt seen          → as W3
  W5 mined, outcome not reported    → SessionEnded in the follower's logs closes the action; without it, as W1
  W6 replaced or retracted          → W2 to W5 again, at the same nonce: of all that is stored there one is mined
  W7 confirmed or lost, not final   → read again and watched until its block is final

What W2 costs: a nonce used for nothing (30,000 gas at most) where a session that was signed for ahead is over by the
next start, though no byte had left. No mark would prove that. Written after the bytes left, it is missing as well where
they did; written before, it has to be as durable as the row, a second commit in the way of every settlement; and one
that isn't (a file, a commit that waits for no disk) is lost with the power, and a restored backup lacks it: then what
may be in a pool would be forgotten, and in direct mode end the next lesson. That no endpoint knows it proves nothing.

Where: `sender` the task, `requests` what is asked for, `look` what a signature rests on, `outbox` signing, storing and
saying, `carrier` how sessions become a transaction, `flight` what became of it, `unmined` what is done about it until
then, `former` what another key left, `funds` what may be spent, `nonces` and `proof` pure, `terms` what it is given.
"""

from __future__ import annotations

from bot.chain.sender.carrier import Carrier, Direct
from bot.chain.sender.guarded import Guarded
from bot.chain.sender.make import make_sender
from bot.chain.sender.mode import carrier_for
from bot.chain.sender.proof import ended_in
from bot.chain.sender.sender import Sender
from bot.chain.sender.terms import Hooks, Outcome, SenderConfig

__all__ = [
    "Carrier",
    "Direct",
    "Guarded",
    "Hooks",
    "Outcome",
    "Sender",
    "SenderConfig",
    "carrier_for",
    "ended_in",
    "make_sender",
]
