"""The gas table of contracts/README.md and contracts/gas.json: measured on Anvil, committed, and checked.

    make gas-snapshot                    # measures anew and compares; exit code 1 if anything moved by more than 1 %
    make gas-snapshot WRITE=--write      # writes what it measured

Promises: the same contracts give the same numbers, as the chain, its times and its accounts are always the same. The
table in the README is the one in the file.
Doesn't promise anything of the deployed LangDAO: its numbers differ by up to a tenth (see the README).
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from eth_abi import encode
from eth_account.hdaccount import key_from_seed, seed_from_mnemonic
from eth_hash.auto import keccak

from bot.chain.guard_code import delegation_code
from scripts.onchain import authorization
from tests.support.anvil import ENGLISH, RATE, World, anvil

CONTRACTS = Path(__file__).resolve().parent.parent / "contracts"
SNAPSHOT = CONTRACTS / "gas.json"
README = CONTRACTS / "README.md"
BEGIN, END = "<!-- gas: begin -->\n", "<!-- gas: end -->\n"

BATCHES = (1, 10, 50, 100)
LARGEST = max(BATCHES)
TOLERANCE = 0.01
LESSON_S = 600
SETTLE = "settle((address,uint256,address)[])"
MNEMONIC = "test test test test test test test test test test test junk"

Gas = dict[str, int]


class Lessons:
    """A chain with as many tutors as the largest batch, all of whom have ended a lesson before."""

    def __init__(self, world: World, keeper: str, guard: str) -> None:
        self.world, self.keeper, self.guard = world, keeper, guard
        self.ids: list[int] = []

    def begin(self) -> None:
        """A lesson for each tutor, LESSON_S ago."""
        first = self.world.counter() + 1
        for tutor in range(LARGEST):
            self.world.start(tutor, tutor)
        self.ids = list(range(first, first + LARGEST))
        self.wait(LESSON_S)

    def wait(self, seconds: int) -> None:
        self.world.node.rpc("evm_increaseTime", seconds)
        self.world.node.mine()

    def items(self, count: int) -> list[tuple[str, int, str]]:
        world = self.world
        return [(world.tutors[i], self.ids[i], world.students[i]) for i in range(count)]

    def settle(self, count: int) -> int:
        return self.used(self.world.send(self.keeper, self.world.owner, settlement(self.items(count)), 29_000_000))

    def used(self, tx: str) -> int:
        deadline = time.monotonic() + 10
        while (receipt := self.world.receipt(tx)) is None:
            assert time.monotonic() < deadline, f"{tx} isn't mined"
            time.sleep(0.01)
        assert receipt["status"] == "0x1", tx
        return int(receipt["gasUsed"], 16)


def settlement(items: list[tuple[str, int, str]]) -> str:
    return "0x" + (keccak(SETTLE.encode())[:4] + encode(["(address,uint256,address)[]"], [items])).hex()


def measured() -> Gas:
    options = ("--accounts", str(2 + 2 * LARGEST), "--timestamp", "1800000000", "--gas-limit", "30000000")
    with anvil(*options) as node:
        accounts = [str(account) for account in node.rpc("eth_accounts")]
        owner, keeper, people = accounts[0], accounts[1], accounts[2:]
        world = World(node, owner, people[:LARGEST], people[LARGEST:])
        world.token, _ = world.deploy("mocks/PYUSD.vy")
        world.contract, _ = world.deploy("LangDAO.vy", ["address"], [world.token])
        guard, _ = world.deploy("SettlementGuard.vy", ["address", "address"], [keeper, world.contract])
        for student in world.students:
            world.do(owner, "mint(address,uint256)", student, 10**12, to=world.token)
            world.do(student, "approve(address,uint256)", world.contract, 10**12, to=world.token)
            world.do(student, "registerStudent(uint8,uint256)", ENGLISH, RATE)
            world.do(student, "depositFunds(uint256)", 10**12)
        for tutor in world.tutors:
            world.do(tutor, "registerTutor(uint8[],uint256)", [ENGLISH], RATE)
        return of(Lessons(world, keeper, guard))


def of(lessons: Lessons) -> Gas:
    """All numbers. Each measurement of ends starts from the same running lessons."""
    world, node, gas = lessons.world, lessons.world.node, Gas()
    gas["startSession, a tutor's first"] = lessons.used(world.start(0, 0))
    lessons.wait(LESSON_S)
    gas["endSession, a tutor's first"] = lessons.used(world.end(0))
    for tutor in range(1, LARGEST):
        world.start(tutor, tutor)
    lessons.wait(LESSON_S)
    for tutor in range(1, LARGEST):
        world.end(tutor)
    lessons.begin()
    running = node.snapshot()
    gas["endSession"] = lessons.used(world.end(1))
    node.back_to(running)

    authorize(lessons, lessons.guard, gas, "delegating, sponsored by the keeper")
    running = node.snapshot()
    for count in BATCHES:
        gas[f"settle, {count} in one transaction"] = lessons.settle(count)
        assert world.counter() == lessons.ids[-1]
        if count == 10:
            gas["settle, 10 that are over already"] = lessons.settle(10)
        node.back_to(running)
        running = node.snapshot()
    authorize(lessons, authorization.NOBODY, gas, "revoking, sponsored by the keeper")
    return gas


def authorize(lessons: Lessons, delegate: str, gas: Gas, what: str) -> None:
    node, owner = lessons.world.node, lessons.world.owner
    seed = seed_from_mnemonic(MNEMONIC, passphrase="")
    owner_key, keeper_key = (key_from_seed(seed, f"m/44'/60'/0'/0/{index}") for index in (0, 1))

    def nonce(address: str) -> int:
        return int(node.rpc("eth_getTransactionCount", address, "latest"), 16)

    transaction = authorization.signed(
        owner_key,
        delegate,
        sender_key=keeper_key,
        chain_id=31337,
        account_nonce=nonce(owner),
        sender_nonce=nonce(lessons.keeper),
        max_fee=10**10,
        tip=10**9,
    )
    gas[what] = lessons.used(node.rpc("eth_sendRawTransaction", "0x" + transaction.hex()))
    expected = b"" if int(delegate, 16) == 0 else delegation_code(delegate)
    assert bytes.fromhex(node.rpc("eth_getCode", owner, "latest")[2:]) == expected


def as_table(gas: Gas) -> str:
    """The numbers as the README shows them: each, per session, and against the plain call of the same session."""
    plain = gas["endSession"]
    lines = ["| | gas | per session | saved of a plain `endSession` |", "|---|---|---|---|"]
    for what, used in gas.items():
        per_session = saved = ""
        if what.startswith("settle, "):
            count = int(what.split()[1])
            per_session = f"{used / count:,.0f}"
            if "over already" not in what:
                saved = f"{plain - used / count:,.0f} ({100 * (plain - used / count) / plain:.1f} %)"
        lines.append(
            f"| {what.replace('endSession', '`endSession`').replace('startSession', '`startSession`')} "
            f"| {used:,} | {per_session} | {saved} |"
        )
    return "\n".join(lines) + "\n"


def in_readme(gas: Gas) -> str:
    before, _, rest = README.read_text().partition(BEGIN)
    return before + BEGIN + as_table(gas) + END + rest.partition(END)[2]


def differences(committed: Gas, now: Gas) -> list[str]:
    """What moved by more than the tolerance, appeared, or is gone."""
    found = [f"{what}: isn't measured any more" for what in committed.keys() - now.keys()]
    for what, used in now.items():
        was = committed.get(what)
        if was is None:
            found.append(f"{what}: {used:,}, not committed")
        elif abs(used - was) > TOLERANCE * was:
            found.append(f"{what}: {used:,}, committed {was:,} ({100 * (used - was) / was:+.1f} %)")
    return found


def main() -> int:
    now = measured()
    if "--write" in sys.argv[1:]:
        SNAPSHOT.write_text(json.dumps(now, indent=2) + "\n")
        README.write_text(in_readme(now))
    committed = json.loads(SNAPSHOT.read_text())
    found = differences(committed, now)
    if README.read_text() != in_readme(committed):
        found.append("the table in contracts/README.md isn't the one of contracts/gas.json")
    for what, used in now.items():
        print(f"{used:>12,}  {what}")
    for line in found:
        print(f"gas-snapshot: {line}", file=sys.stderr)
    if found:
        print("gas-snapshot: if that is meant, run `make gas-snapshot WRITE=--write`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
