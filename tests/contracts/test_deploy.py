"""`ape run deploy`, as the devnet uses it: from outside, against a node that mines at intervals."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, SPANISH, free_port
from web3 import HTTPProvider, Web3

from bot.chain.guard_code import immutables_of

pytestmark = [pytest.mark.timeout(180), pytest.mark.own_node]


@pytest.fixture(scope="module")
def interval_node():
    """An Anvil of our own with a block every second; yields its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    anvil = shutil.which("anvil")
    assert anvil, "anvil is not on PATH: activate .venv after `make setup`, or install Foundry"
    process = subprocess.Popen([anvil, "--port", str(port), "--accounts", "100", "--block-time", "1", "--silent"])
    try:
        web3 = Web3(HTTPProvider(url))
        deadline = time.monotonic() + 20
        while not web3.is_connected():
            # If another program has the port, ours has gone by now.
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield url
    finally:
        process.kill()
        process.wait()


def deploy(url: str, out: Path, *options: str) -> subprocess.CompletedProcess:
    return run_script("deploy", url, "--out", out, *options)


def run_script(name: str, url: str, *options: str | Path) -> subprocess.CompletedProcess:
    ape = Path(sys.executable).with_name("ape")
    return subprocess.run(
        [ape, "run", name, *options, "--network", url],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name != "APE_FOUNDRY_HOST"},
        capture_output=True,
        text=True,
        timeout=90,
    )


@pytest.fixture(scope="module")
def deployed(interval_node, tmp_path_factory) -> dict:
    out = tmp_path_factory.mktemp("deploy") / "addresses.json"
    options = ("--worlds", "2", "--students", "3", "--tutors", "2", "--rate", "2000", "--deposit", "5000000")
    finished = deploy(interval_node, out, *options)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return json.loads(out.read_text())


@pytest.fixture(scope="module")
def remote(interval_node) -> Web3:
    return Web3(HTTPProvider(interval_node))


def contracts(remote, deployed):
    abi = json.loads((ROOT / "contracts" / "interfaces" / "LangDAO.json").read_text())
    return [remote.eth.contract(address=world["contract"], abi=abi) for world in deployed["worlds"]]


def test_file__names_two_worlds_with_people_of_their_own(deployed):
    assert deployed["chain_id"] == 31337
    addresses = []
    for world in deployed["worlds"]:
        assert [len(world["students"]), len(world["tutors"])] == [3, 2]
        addresses += [person["address"] for person in [world["owner"], *world["students"], *world["tutors"]]]
    assert len(set(addresses)) == 2 * (1 + 3 + 2)


def test_owner__is_the_worlds_own_account(remote, deployed):
    for world, langdao in zip(deployed["worlds"], contracts(remote, deployed), strict=True):
        assert langdao.functions.owner().call() == world["owner"]["address"]
        assert langdao.functions.PYUSD_TOKEN().call() == deployed["token"]
        assert remote.eth.account.from_key(world["owner"]["key"]).address == world["owner"]["address"]


def test_guard__of_each_world__is_for_its_contract_and_keeper(remote, deployed):
    for world in deployed["worlds"]:
        code = bytes(remote.eth.get_code(world["guard"]))
        assert immutables_of(code) == (world["keeper"]["address"], world["contract"])
        assert remote.eth.account.from_key(world["keeper"]["key"]).address == world["keeper"]["address"]


def test_guard_for__a_contract_that_is_there__deployed_once(interval_node, remote, deployed, tmp_path, monkeypatch):
    contract, keeper = deployed["worlds"][0]["contract"], deployed["worlds"][1]["keeper"]
    monkeypatch.setenv("DEPLOYER_PRIVATE_KEY", keeper["key"])
    out = tmp_path / "guard.json"
    for said in ("added to", "already"):
        finished = deploy(interval_node, out, "--guard-for", contract, "--keeper", keeper["address"])
        assert finished.returncode == 0, finished.stdout + finished.stderr
        assert said in finished.stdout
    (entry,) = json.loads(out.read_text())["worlds"]
    assert immutables_of(bytes(remote.eth.get_code(entry["guard"]))) == (keeper["address"], contract)
    assert keeper["key"] not in out.read_text()


def test_deploy_block__is_where_the_code_appeared(remote, deployed):
    for world in deployed["worlds"]:
        block = world["deploy_block"]
        assert remote.eth.get_code(world["contract"], block)
        assert not remote.eth.get_code(world["contract"], block - 1)


def test_people__everybody_can_start_a_lesson_with_everybody(remote, deployed):
    for world, langdao in zip(deployed["worlds"], contracts(remote, deployed), strict=True):
        for student in world["students"]:
            assert langdao.functions.getStudentPYUSDBalance(student["address"]).call() == 5_000_000
            for tutor in world["tutors"]:
                assert langdao.functions.getTutorRate(tutor["address"], SPANISH).call() == 2_000
                start = langdao.functions.startSession(tutor["address"], SPANISH)
                assert start.call({"from": student["address"]}) == 1


def test_again__deploys_anew_beside_the_old(interval_node, remote, deployed, tmp_path):
    finished = deploy(interval_node, tmp_path / "again.json", "--students", "1", "--tutors", "1")
    assert finished.returncode == 0, finished.stdout + finished.stderr
    again = json.loads((tmp_path / "again.json").read_text())
    assert again["worlds"][0]["contract"] not in [world["contract"] for world in deployed["worlds"]]
    assert remote.eth.get_code(again["worlds"][0]["contract"])


def test_accounts_without_eth__says_how_to_start_the_node(interval_node, tmp_path):
    # World 2 and 3 need accounts 80 to 159, and the node funded 100.
    finished = deploy(interval_node, tmp_path / "no.json", "--worlds", "4")
    assert finished.returncode == 1
    assert "anvil --accounts" in finished.stderr
    assert not (tmp_path / "no.json").exists()
