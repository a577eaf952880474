# pragma version ==0.4.3
"""
@title LangDAO
@license MIT
@notice A stand-in for the deployed LangDAO contract, for local chains: lessons billed by the second.
@dev Promises the same bytes on the wire as the deployed contract, which is written in Solidity: selectors,
     topics, layouts, order of checks, revert data, and its hazards. A hazard repaired here would be a hazard that
     no test of the keeper meets. contracts/README.md lists them. Does not promise the same storage layout
     or source, and differs in two places on purpose: the token is a constructor argument, and the owner
     is the deployer. Never deploy it for real money.
"""

event StudentRegistered:
    user: indexed(address)
    targetLanguage: uint8
    budgetPerSec: uint256

event TutorRegistered:
    user: indexed(address)
    languages: DynArray[uint8, MAX_LANGUAGES]
    ratePerHour: uint256  # the deployed name; it carries the rate per second

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

# Declared by the deployed contract, emitted by nobody.
event PaymentProcessed:
    sender: indexed(address)  # `from` in the deployed contract, a reserved word here
    to: indexed(address)
    amount: uint256

event FundsDeposited:
    user: indexed(address)
    token: indexed(address)
    amount: uint256

event FundsWithdrawn:
    user: indexed(address)
    token: indexed(address)
    amount: uint256


struct Student:
    targetLanguage: uint8
    budgetPerSec: uint256
    isRegistered: bool

struct Tutor:
    totalEarnings: uint256
    sessionCount: uint256
    isRegistered: bool

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


# How much lesson a student must be able to pay for in order to start one.
BUFFER_TIME: constant(uint256) = 600

UNSUPPORTED: constant(uint8) = 255
LANGUAGE_COUNT: constant(uint256) = 38
# The two-letter code of language i stands at 2i.
ISO_CODES: constant(String[76]) = "enesfrdeitptruzhjakoarhinlsvnodafipltrelhethviidmstlukcshurobghrsrskslltlvet"

# Solidity has no bounds here. These only have to be out of the way; each costs memory, hence gas, up front.
MAX_LANGUAGES: constant(uint256) = 256
MAX_RETURNED_SESSIONS: constant(uint256) = 16384
MAX_ISO_LENGTH: constant(uint256) = 1024
MAX_USER_SESSIONS: constant(uint256) = 2**40

owner: public(immutable(address))
PYUSD_TOKEN: public(immutable(address))

sessionCounter: public(uint256)
studentBalances: public(HashMap[address, HashMap[address, uint256]])
students: public(HashMap[address, Student])
tutors: public(HashMap[address, Tutor])
isStudying: public(HashMap[address, bool])
# By tutor, not by session: whoever ends "the tutor's session" ends the one that runs when the call is mined.
activeSessions: public(HashMap[address, Session])
sessionHistory: public(HashMap[uint256, Session])
userSessions: public(HashMap[address, DynArray[uint256, MAX_USER_SESSIONS]])

languages: HashMap[address, HashMap[uint8, bool]]
rates: HashMap[address, HashMap[uint8, uint256]]


@deploy
def __init__(token: address):
    owner = msg.sender
    PYUSD_TOKEN = token


# ------------------------------------------------------------------ participants

@external
def registerStudent(targetLanguage: uint8, budgetPerSec: uint256):
    assert targetLanguage != UNSUPPORTED, "Unsupported language"
    assert not self.students[msg.sender].isRegistered, "Student already registered"
    self.students[msg.sender] = Student(
        targetLanguage=targetLanguage, budgetPerSec=budgetPerSec, isRegistered=True
    )
    log StudentRegistered(user=msg.sender, targetLanguage=targetLanguage, budgetPerSec=budgetPerSec)


@external
def registerTutor(languages: DynArray[uint8, MAX_LANGUAGES], ratePerSecond: uint256):
    assert not self.tutors[msg.sender].isRegistered, "Tutor already registered"
    self.tutors[msg.sender].isRegistered = True
    for language: uint8 in languages:
        assert language != UNSUPPORTED, "Unsupported language"
        self.languages[msg.sender][language] = True
        self.rates[msg.sender][language] = ratePerSecond
    log TutorRegistered(user=msg.sender, languages=languages, ratePerHour=ratePerSecond)


@external
def updateBudget(budgetPerSec: uint256):
    assert self.students[msg.sender].isRegistered, "User not registered"
    self.students[msg.sender].budgetPerSec = budgetPerSec


@external
def updateRate(language: uint8, ratePerSecond: uint256):
    assert self.tutors[msg.sender].isRegistered, "User not registered"
    assert self.languages[msg.sender][language], "Tutor does not offer this language"
    self.rates[msg.sender][language] = ratePerSecond


# ------------------------------------------------------------------ funds

@external
def depositFunds(amount: uint256):
    assert self.students[msg.sender].isRegistered, "User not registered"
    assert amount > 0, "Amount must be greater than 0"
    self._call_token(
        PYUSD_TOKEN,
        abi_encode(msg.sender, self, amount, method_id=method_id("transferFrom(address,address,uint256)")),
    )
    self.studentBalances[msg.sender][PYUSD_TOKEN] = self._plus(self.studentBalances[msg.sender][PYUSD_TOKEN], amount)
    log FundsDeposited(user=msg.sender, token=PYUSD_TOKEN, amount=amount)


@external
def withdrawFunds(amount: uint256):
    assert self.students[msg.sender].isRegistered, "User not registered"
    assert not self.isStudying[msg.sender], "Student is studying"
    assert amount > 0, "Amount must be greater than 0"
    assert self.studentBalances[msg.sender][PYUSD_TOKEN] >= amount, "Insufficient balance"
    self._call_token(
        PYUSD_TOKEN, abi_encode(msg.sender, amount, method_id=method_id("transfer(address,uint256)"))
    )
    self.studentBalances[msg.sender][PYUSD_TOKEN] -= amount
    log FundsWithdrawn(user=msg.sender, token=PYUSD_TOKEN, amount=amount)


# ------------------------------------------------------------------ sessions

@external
def startSession(tutor: address, language: uint8) -> uint256:
    assert self.students[msg.sender].isRegistered, "User not registered"
    assert not self.activeSessions[tutor].isActive, "There should be no ongoing session for this tutor"
    assert self.languages[tutor][language], "Tutor does not offer this language"
    # These two look at the student's target language, not at `language`.
    assert self._can_afford_rate(msg.sender, tutor), "Student cannot afford tutor's rate for this language"
    assert self._has_sufficient_balance(msg.sender, tutor), "Student does not have sufficient PYUSD balance"

    self.sessionCounter += 1
    session: Session = Session(
        student=msg.sender,
        tutor=tutor,
        token=PYUSD_TOKEN,
        startTime=block.timestamp,
        endTime=0,
        ratePerSecond=self.rates[tutor][language],
        totalPaid=0,
        language=language,
        id=self.sessionCounter,
        isActive=True,
    )
    self.activeSessions[tutor] = session
    self.isStudying[msg.sender] = True
    self.sessionHistory[session.id] = session
    self.userSessions[msg.sender].append(session.id)
    self.userSessions[tutor].append(session.id)
    log SessionStarted(sessionId=session.id, student=msg.sender, tutor=tutor, language=language)
    return session.id


@external
def endSession(tutor: address):
    assert self.activeSessions[tutor].isActive, "Session not active"
    student: address = self.activeSessions[tutor].student
    assert msg.sender in [student, tutor, owner], "Caller is not the student, tutor nor owner"

    token: address = self.activeSessions[tutor].token
    duration: uint256 = block.timestamp - self.activeSessions[tutor].startTime
    balance: uint256 = self.studentBalances[student][token]
    paid: uint256 = min(self._times(duration, self.activeSessions[tutor].ratePerSecond), balance)

    self.studentBalances[student][token] = balance - paid
    self._call_token(token, abi_encode(tutor, paid, method_id=method_id("transfer(address,uint256)")))

    # Each value is written through storage, as deployed: the refunds of the delete below are what makes the gas
    # limit of an end larger than the gas it uses, and an estimate made at zero cost too small.
    self.activeSessions[tutor].totalPaid += paid
    self.activeSessions[tutor].endTime = block.timestamp
    self.tutors[tutor].totalEarnings = self._plus(self.tutors[tutor].totalEarnings, paid)
    self.tutors[tutor].sessionCount += 1
    self.activeSessions[tutor].isActive = False
    id: uint256 = self.activeSessions[tutor].id
    self.sessionHistory[id] = self.activeSessions[tutor]
    log SessionEnded(sessionId=id, tutorAddress=tutor, duration=duration, totalPaid=paid)

    # Also when the student is in a lesson with somebody else.
    self.isStudying[student] = False
    self.activeSessions[tutor] = empty(Session)


# ------------------------------------------------------------------ owner

@external
def emergencyEndSession(sessionId: uint256):
    # Empty in the deployed contract: it succeeds and ends nothing.
    assert msg.sender == owner, "Not the owner"


@external
def withdraw():
    # Empty in the deployed contract: ETH sent to it stays.
    assert msg.sender == owner, "Not the owner"


@external
@payable
def __default__():
    # Solidity's receive(): plain ETH is taken, a call of something unknown is not.
    assert len(msg.data) == 0


# ------------------------------------------------------------------ views

@external
@view
def getSession(sessionId: uint256) -> Session:
    return self.sessionHistory[sessionId]


@external
@view
def getCurrentSessionCost(sessionId: uint256) -> uint256:
    session: Session = self.sessionHistory[sessionId]
    assert session.isActive, "Session is not active"
    return self._times(block.timestamp - session.startTime, session.ratePerSecond)


@external
@view
def getUserSessions(user: address) -> DynArray[uint256, MAX_RETURNED_SESSIONS]:
    ids: DynArray[uint256, MAX_RETURNED_SESSIONS] = []
    for i: uint256 in range(len(self.userSessions[user]), bound=MAX_RETURNED_SESSIONS):
        ids.append(self.userSessions[user][i])
    return ids


@external
@view
def getStudentInfo(student: address) -> Student:
    return self.students[student]


@external
@view
def getTutorInfo(tutor: address) -> Tutor:
    return self.tutors[tutor]


@external
@view
def getTutorLanguage(tutor: address, language: uint8) -> bool:
    return self.languages[tutor][language]


@external
@view
def getTutorRate(tutor: address, language: uint8) -> uint256:
    return self.rates[tutor][language]


@external
@view
def getStudentPYUSDBalance(student: address) -> uint256:
    return self.studentBalances[student][PYUSD_TOKEN]


@external
@view
def canAffordRate(student: address, tutor: address) -> bool:
    return self._can_afford_rate(student, tutor)


@external
@view
def hasSufficientBalance(student: address, tutor: address) -> bool:
    return self._has_sufficient_balance(student, tutor)


@external
@pure
def isoToLanguage(isoCode: String[MAX_ISO_LENGTH]) -> uint8:
    if len(isoCode) == 2:
        for i: uint256 in range(LANGUAGE_COUNT):
            if slice(ISO_CODES, 2 * i, 2) == isoCode:
                return convert(i, uint8)
    return UNSUPPORTED


@external
@pure
def languageToIso(language: uint8) -> String[11]:
    i: uint256 = convert(language, uint256)
    if i < LANGUAGE_COUNT:
        return slice(ISO_CODES, 2 * i, 2)
    return "unsupported"


# ------------------------------------------------------------------ inside

@internal
@view
def _can_afford_rate(student: address, tutor: address) -> bool:
    rate: uint256 = self.rates[tutor][self.students[student].targetLanguage]
    return self.students[student].budgetPerSec >= rate


@internal
@view
def _has_sufficient_balance(student: address, tutor: address) -> bool:
    rate: uint256 = self.rates[tutor][self.students[student].targetLanguage]
    return self.studentBalances[student][PYUSD_TOKEN] >= self._times(rate, BUFFER_TIME)


@internal
def _call_token(token: address, data: Bytes[100]):
    # The token may answer true or false, nobody looks, but it has to answer. When it reverts, or isn't there,
    # the caller sees empty revert data, as observed of the deployed pair.
    success: bool = False
    answer: Bytes[32] = b""
    success, answer = raw_call(token, data, max_outsize=32, revert_on_failure=False)
    assert success
    assert len(answer) == 32
    assert convert(convert(answer, bytes32), uint256) <= 1


@internal
@pure
def _times(a: uint256, b: uint256) -> uint256:
    if a != 0 and b > max_value(uint256) // a:
        self._panic()
    return unsafe_mul(a, b)


@internal
@pure
def _plus(a: uint256, b: uint256) -> uint256:
    if b > max_value(uint256) - a:
        self._panic()
    return unsafe_add(a, b)


@internal
@pure
def _panic():
    # Solidity reports an arithmetic overflow as Panic(0x11), Vyper with no data.
    raw_revert(abi_encode(convert(17, uint256), method_id=method_id("Panic(uint256)")))
