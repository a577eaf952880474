"""The ape scripts: each in this process against the tests' node, and the way through `ape run` at the end."""

import json
import threading
from types import SimpleNamespace

import click
import pytest
from conftest import BUDGET, DEPOSIT, RATE, SPANISH, delegate
from hexbytes import HexBytes
from test_deploy import deploy, interval_node, run_script  # noqa: F401
from web3 import HTTPProvider, Web3

from bot.chain.guard_code import delegate_of
from scripts import delegate as delegate_script
from scripts import fund, register, simulate, status
from scripts.onchain import authorization


def described(account) -> dict[str, str]:
    return {"address": account.address, "key": HexBytes(account.private_key).to_0x_hex()}


@pytest.fixture
def there(tmp_path, web3, langdao, guard, owner, keeper, student, tutor):
    """Arguments that all scripts share, and the addresses file they name."""
    world = {
        "contract": langdao.address,
        "guard": guard.address,
        "owner": described(owner),
        "keeper": described(keeper),
        "students": [described(student)],
        "tutors": [described(tutor)],
    }
    path = tmp_path / "addresses.json"
    path.write_text(json.dumps({"chain_id": web3.eth.chain_id, "worlds": [world]}))
    return {"provider": SimpleNamespace(web3=web3), "addresses": path, "world": 0, "contract": None}


@pytest.fixture
def delegating(there):
    """Runs `delegate` with the defaults of its options."""

    def run(**options) -> None:
        defaults = {"revoke": False, "guard": None, "sender": "keeper", "yes": True, "wait": 5}
        delegate_script.cli.callback(**{**there, **defaults, **options})

    return run


def delegate_now(web3, account) -> str | None:
    return delegate_of(bytes(web3.eth.get_code(account.address)))


def test_register_and_fund__twice__the_second_changes_nothing(capsys, there, langdao, token, chain, student, tutor):
    who = {"who": 0, "language": (SPANISH,), "rate": RATE, "budget": BUDGET}
    for role in ("student", "tutor"):
        register.cli.callback(**there, role=role, **who)
    fund.cli.callback(**there, who=0, balance=DEPOSIT)
    assert langdao.getStudentInfo(student).isRegistered
    assert langdao.getTutorRate(tutor, SPANISH) == RATE
    assert langdao.getStudentPYUSDBalance(student) == DEPOSIT
    before = chain.blocks.height
    for role in ("student", "tutor"):
        register.cli.callback(**there, role=role, **who)
    fund.cli.callback(**there, who=0, balance=DEPOSIT)
    assert chain.blocks.height == before
    assert "nothing to do" in capsys.readouterr().out


def test_fund__not_registered__says_what_to_do(there, student):
    with pytest.raises(click.ClickException, match="ape run register student"):
        fund.cli.callback(**there, who=0, balance=DEPOSIT)


def test_register__without_eth__says_so_and_sends_nothing(monkeypatch, there, chain):
    monkeypatch.setenv("STUDENT_PRIVATE_KEY", "0x" + 64 * "7")
    before = chain.blocks.height
    with pytest.raises(click.ClickException, match="send it some ETH first"):
        register.cli.callback(**there, role="student", who=0, language=(SPANISH,), rate=RATE, budget=BUDGET)
    assert chain.blocks.height == before


def test_place__another_chain_or_no_contract__says_which(there, stranger):
    document = json.loads(there["addresses"].read_text())
    there["addresses"].write_text(json.dumps({**document, "chain_id": 1}))
    with pytest.raises(click.ClickException, match="is of chain 1, the node is on 31337"):
        status.cli.callback(**there, last=10, as_json=False)
    with pytest.raises(click.ClickException, match="There is no contract"):
        status.cli.callback(**{**there, "contract": stranger.address}, last=10, as_json=False)


@pytest.mark.delegation
@pytest.mark.parametrize("sender", ["keeper", "owner"])
def test_delegate__then_revoke__each_shows_in_the_code(capsys, delegating, web3, guard, owner, keeper, sender):
    """Promises: "it says what a delegation does to the backend before it signs", "done only when the code says so"."""
    delegating(sender=sender)
    assert delegate_now(web3, owner) == guard.address
    said = capsys.readouterr().out
    assert "one pending transaction" in said
    assert "21,062" in said
    assert keeper.address in said
    delegating(sender=sender, revoke=True)
    assert web3.eth.get_code(owner.address) == b""
    assert "one pending transaction" in capsys.readouterr().out


@pytest.mark.delegation
def test_delegate__again__sends_nothing(capsys, delegating, chain):
    delegating()
    before = chain.blocks.height
    delegating()
    assert chain.blocks.height == before
    assert "already: nothing to do" in capsys.readouterr().out


def test_delegate__not_the_owners_key__refused(monkeypatch, delegating, web3, owner, stranger):
    monkeypatch.setenv("OWNER_PRIVATE_KEY", described(stranger)["key"][2:])
    with pytest.raises(click.ClickException, match="but LangDAO's owner is"):
        delegating()
    assert delegate_now(web3, owner) is None


def test_delegate__to_something_else_than_the_guard__refused(delegating, web3, owner, langdao):
    """Promise: "signs … only for a contract whose code is the guard's"."""
    with pytest.raises(click.ClickException, match="isn't the settlement guard's: not signing"):
        delegating(guard=langdao.address)
    assert delegate_now(web3, owner) is None


def test_delegate__to_a_guard_of_another_langdao__refused(delegating, project, web3, owner, keeper, token):
    other = owner.deploy(project.LangDAO, token)
    guard = owner.deploy(project.SettlementGuard, keeper, other)
    with pytest.raises(click.ClickException, match=f"is for the LangDAO at {other.address}"):
        delegating(guard=guard.address)
    assert delegate_now(web3, owner) is None


@pytest.fixture
def slow_mining(web3):
    """Transactions wait until somebody mines."""
    web3.provider.make_request("evm_setAutomine", [False])
    yield
    web3.provider.make_request("evm_mine", [])
    web3.provider.make_request("evm_setAutomine", [True])


@pytest.mark.delegation
def test_delegate__owners_transaction_pending__waits_for_it(delegating, slow_mining, web3, guard, owner, stranger):
    """Promise: "It signs when none of the owner's transactions is under way"."""
    web3.eth.send_transaction({"from": owner.address, "to": stranger.address, "gas": 21_000, "gasPrice": 10**9})
    with pytest.raises(click.ClickException, match=r"1 transactions of .* are still pending"):
        delegating(wait=1)
    done = threading.Event()

    def mine() -> None:
        while not done.wait(0.3):
            web3.provider.make_request("evm_mine", [])

    miner = threading.Thread(target=mine)
    miner.start()
    try:
        delegating()
    finally:
        done.set()
        miner.join()
    assert delegate_now(web3, owner) == guard.address


@pytest.mark.delegation
def test_delegate__owners_nonce_moves_after_signing__tried_again(
    capsys, monkeypatch, delegating, web3, guard, owner, stranger
):
    """Promise: "tries again when the owner's nonce moved meanwhile"; the first authorization is ignored by the node."""
    signed, times = authorization.signed, []

    def overtaken(*arguments, **options) -> bytes:
        transaction = signed(*arguments, **options)
        if not times:
            web3.eth.send_transaction({"from": owner.address, "to": stranger.address, "gas": 30_000, "gasPrice": 10**9})
        times.append(1)
        return transaction

    monkeypatch.setattr(authorization, "signed", overtaken)
    delegating()
    assert len(times) == 2
    assert "Attempt 1: the owner's nonce moved" in capsys.readouterr().out
    assert delegate_now(web3, owner) == guard.address


@pytest.mark.delegation
def test_status__delegated__names_guard_keeper_and_running_sessions(
    capsys, there, node, guard, owner, keeper, student, tutor, lesson
):
    delegate(node, owner, guard.address, keeper)
    status.cli.callback(**there, last=10, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["delegate"], found["guard"], found["guard_keeper"]) == (guard.address, True, keeper.address)
    assert [session["id"] for session in found["active"]] == [lesson]


def test_authorization__for_every_chain__refused(owner):
    key = bytes(HexBytes(owner.private_key))
    options = {"account_nonce": 0, "sender_nonce": 0, "max_fee": 1, "tip": 1}
    with pytest.raises(ValueError, match="every chain"):
        authorization.signed(key, authorization.NOBODY, sender_key=key, chain_id=0, **options)


def test_simulate__user_end__ends_and_says_who(capsys, there, world, student, tutor):
    world.student(student)
    world.tutor(tutor)
    with pytest.raises(SystemExit) as left:
        simulate.cli.callback(
            provider=there["provider"], addresses=there["addresses"], world=0, scenario="user-end", hook=None,
            lessons=1, language=SPANISH, seconds=0.0, wait=20.0,
        )  # fmt: skip
    assert left.value.code == 0
    assert "ended by the student" in capsys.readouterr().out


def test_simulate__everybody_busy__says_so(there, lesson):
    with pytest.raises(click.ClickException, match="too few for 1 lessons"):
        simulate.cli.callback(
            provider=there["provider"], addresses=there["addresses"], world=0, scenario="user-end", hook=None,
            lessons=1, language=SPANISH, seconds=0.0, wait=20.0,
        )  # fmt: skip


@pytest.mark.own_node
@pytest.mark.timeout(240)
def test_ape_run__deploy_delegate_simulate__end_to_end(interval_node, tmp_path):  # noqa: F811
    out = tmp_path / "addresses.json"
    finished = deploy(interval_node, out, "--students", "1", "--tutors", "1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    (world,) = json.loads(out.read_text())["worlds"]
    for script, *options in (
        ("delegate", "--yes"),
        ("simulate", "user-end", "--seconds", "0", "--wait", "30"),
    ):
        finished = run_script(script, interval_node, *options, "--addresses", out)
        assert finished.returncode == 0, finished.stdout + finished.stderr
    remote = Web3(HTTPProvider(interval_node))
    assert delegate_of(bytes(remote.eth.get_code(world["owner"]["address"]))) == world["guard"]
