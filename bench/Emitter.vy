# pragma version ==0.4.3
"""
@title Emitter
@license MIT
@notice Logs as LangDAO's, as many as one asks for, for measuring the index. Holds nothing and checks nothing.
@dev Who is in a session follows from its id alone, so that getSession agrees with the logs without any storage.
     Lesson n starts in one call and ends in the next: a session lives for one transaction.
"""

event SessionStarted:
    sessionId: indexed(uint256)
    student: indexed(address)
    tutor: indexed(address)
    language: uint8

event SessionEnded:
    sessionId: indexed(uint256)
    tutorAddress: indexed(address)
    duration: uint256
    totalPaid: uint256

event FundsDeposited:
    user: indexed(address)
    token: indexed(address)
    amount: uint256

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

owner: public(immutable(address))
PYUSD_TOKEN: public(constant(address)) = 0xCaC524BcA292aaade2DF8A05cC58F0a65B1B3bB9

STUDENTS: constant(uint256) = 2_000
TUTORS: constant(uint256) = 500
STUDENT_BASE: constant(uint256) = 1397053520 << 128
TUTOR_BASE: constant(uint256) = 1414878546 << 128

sessionCounter: public(uint256)


@deploy
def __init__():
    owner = msg.sender


@pure
def _student(id: uint256) -> address:
    return convert(convert(STUDENT_BASE + (id * 7919) % STUDENTS, uint160), address)


@pure
def _tutor(id: uint256) -> address:
    return convert(convert(TUTOR_BASE + (id * 104729) % TUTORS, uint160), address)


@external
def emit_logs(lessons: uint256, deposits: uint256):
    """
    @notice Ends the `lessons` sessions of the call before (none in the first call), starts as many, deposits.
    """
    last: uint256 = self.sessionCounter
    if last >= lessons:
        for i: uint256 in range(lessons, bound=64):
            id: uint256 = last - lessons + 1 + i
            log SessionEnded(sessionId=id, tutorAddress=self._tutor(id), duration=60 + id % 600, totalPaid=(60 + id % 600) * 1000)
    for i: uint256 in range(lessons, bound=64):
        id: uint256 = last + 1 + i
        log SessionStarted(sessionId=id, student=self._student(id), tutor=self._tutor(id), language=convert(id % 38, uint8))
    for i: uint256 in range(deposits, bound=64):
        log FundsDeposited(user=self._student(last + i), token=PYUSD_TOKEN, amount=5_000_000)
    self.sessionCounter = last + lessons


@external
@view
def getSession(id: uint256) -> Session:
    return Session(
        student=self._student(id),
        tutor=self._tutor(id),
        token=PYUSD_TOKEN,
        startTime=1_700_000_000 + id,
        endTime=1_700_000_060 + id + id % 600,
        ratePerSecond=1000,
        totalPaid=(60 + id % 600) * 1000,
        language=convert(id % 38, uint8),
        id=id,
        isActive=False,
    )
