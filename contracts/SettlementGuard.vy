# pragma version ==0.4.3
"""
@title SettlementGuard
@license MIT
@notice Code for the account that owns a LangDAO, set by an EIP-7702 delegation. It ends the sessions it is given by
        name, and no other session of the same tutor.
@dev LangDAO's `endSession(tutor)` ends whatever session the tutor has when the call is mined. Here each item names the
     session, (tutor, id, student); it is compared with the tutor's slot in the very call that ends it, and nothing
     runs between the two. LangDAO sees its owner as the caller and needs no change.

     What the keeper's key can do, also in a thief's hands: end sessions of this one LangDAO, running ones too, each
     billed up to that second and paid to its tutor as always; and spend the keeper's own ETH on gas.
     What it can't: move ETH, tokens or deposits of the owner's account, call any other contract or function, sign in
     the owner's name, change the keeper or this code, or stop the owner from ending sessions or revoking the
     delegation. The key in the owner's own hands stays what it was, all-powerful: guard that one.

     Promises:
     - Only the keeper and the account itself may call `settle`; both addresses are part of the code.
     - A session that isn't named by tutor, id and student is never ended.
     - An item that doesn't match, reverts, or burns all gas it is given changes nothing for the others, so long as the
       transaction's gas allows it GAS_CAP. Where that is too little, `settle` stops and says at which item.
     - Nothing is stored, so nothing has to be set up, and nothing is left behind when the delegation goes.
     Doesn't promise: that `Settled` proves an end to those who can't see which code the account had. LangDAO's own
     SessionEnded does.
"""

struct Item:
    tutor: address
    id: uint256
    student: address

# What LangDAO keeps in a tutor's slot. All zero when nobody is there.
struct Session:
    student: address
    tutor: address
    token: address
    startTime: uint256
    endTime: uint256
    ratePerSecond: uint256
    totalPaid: uint256
    language: uint8
    id: uint256
    isActive: bool

interface LangDAO:
    def activeSessions(tutor: address) -> Session: view

# LangDAO was called and did not revert.
event Settled:
    id: indexed(uint256)

# LangDAO was not called, for one of the reasons below.
event Skipped:
    id: indexed(uint256)
    reason: uint8

# LangDAO was called and reverted: the start of its revert data, empty when the token did it or the gas ran out.
event Failed:
    id: indexed(uint256)
    data: Bytes[MAX_DATA]

# Reasons: the tutor's slot is empty; it holds another session; that session has another student; the gas left is too
# little for this item and whatever follows it, none of which was looked at.
NOT_ACTIVE: constant(uint8) = 1
OTHER_SESSION: constant(uint8) = 2
OTHER_STUDENT: constant(uint8) = 3
TOO_LITTLE_GAS: constant(uint8) = 4

MAX_ITEMS: constant(uint256) = 128
MAX_DATA: constant(uint256) = 256

# What one `endSession` may use. The deployed contract needs up to 247,000 in a tutor's first end.
GAS_CAP: constant(uint256) = 400_000
# What is needed around that call: reading the slot (12 cold reads, 28,000), an event, the way to the next item.
GAS_RESERVE: constant(uint256) = 50_000
# A call passes on at most 63/64 of what is left; with less than this, the cap would not be met.
GAS_NEEDED: constant(uint256) = GAS_CAP * 64 // 63 + 1 + GAS_RESERVE

KEEPER: immutable(address)
LANGDAO: immutable(address)


@deploy
def __init__(keeper: address, langdao: address):
    assert keeper != empty(address), "no keeper"
    assert langdao.is_contract, "no contract at langdao"
    KEEPER = keeper
    LANGDAO = langdao


@external
def settle(items: DynArray[Item, MAX_ITEMS]):
    # `self` is the delegating account.
    assert msg.sender == KEEPER or msg.sender == self, "not the keeper"

    for item: Item in items:
        if msg.gas < GAS_NEEDED:
            log Skipped(id=item.id, reason=TOO_LITTLE_GAS)
            break

        session: Session = staticcall LangDAO(LANGDAO).activeSessions(item.tutor)
        if not session.isActive:
            log Skipped(id=item.id, reason=NOT_ACTIVE)
        elif session.id != item.id:
            log Skipped(id=item.id, reason=OTHER_SESSION)
        elif session.student != item.student:
            log Skipped(id=item.id, reason=OTHER_STUDENT)
        else:
            # Not more than MAX_DATA bytes of what comes back are copied, however much there is.
            success: bool = False
            data: Bytes[MAX_DATA] = b""
            success, data = raw_call(
                LANGDAO,
                abi_encode(item.tutor, method_id=method_id("endSession(address)")),
                max_outsize=MAX_DATA,
                gas=GAS_CAP,
                revert_on_failure=False,
            )
            if success:
                log Settled(id=item.id)
            else:
                log Failed(id=item.id, data=data)


@external
@payable
def __default__():
    # Plain ETH is taken, as before the delegation. A call of anything else is not.
    assert len(msg.data) == 0
