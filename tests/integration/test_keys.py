"""Where the key may be: environment, encrypted keystore, remote signer. A test of a promise quotes it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rlp
from eth_account import Account

from bot.chain.errors import SignerFailed
from bot.chain.keystore import open_keystore
from bot.chain.remote_signer import RemoteSigner
from bot.chain.signer import KeySigner
from bot.errors import Misconfigured
from bot.settings import Settings
from tests.support.anvil import OWNER_KEY, World, langdao
from tests.support.record import inside
from tests.support.servers import beside, free_port, serving
from tests.support.web3signer import Web3Signer

OWNER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
OTHER_KEY = "0x59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"
PASSWORD = "correct horse battery"
ANVIL_CHAIN = 31337
TRANSACTION = {
    "type": 2,
    "chainId": ANVIL_CHAIN,
    "nonce": 7,
    "to": "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512",
    "value": 0,
    "data": "0x7ce02794" + "00" * 12 + "11" * 20,
    "gas": 300_000,
    "maxFeePerGas": 3_000_000_000,
    "maxPriorityFeePerGas": 1_000_000_000,
}
LEGACY = {name: TRANSACTION[name] for name in ("chainId", "nonce", "to", "value", "data", "gas")} | {"gasPrice": 10**9}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with langdao(students=2, tutors=2) as one:
        one.node.rpc("evm_setIntervalMining", 1)
        yield one


def keystore(folder: Path, key: str = OWNER_KEY, password: str = PASSWORD) -> dict[str, Any]:
    """The two files and their settings; few rounds, a test is no attacker."""
    file, password_file = folder / "key.json", folder / "password"
    file.write_text(json.dumps(Account.encrypt(key, password, kdf="pbkdf2", iterations=10)))
    password_file.write_text(password + "\n")
    file.chmod(0o600)
    password_file.chmod(0o600)
    return {"KEYSTORE_FILE": file, "KEYSTORE_PASSWORD_FILE": password_file}


def given(world: World, home: Path, **more: Any) -> dict[str, Any]:
    return {
        "RPC_URL": world.node.url,
        "CONTRACT_ADDRESS": world.contract,
        "DATABASE_URL": f"sqlite:///{home}/keeper.db",
        "HTTP_BIND": f"127.0.0.1:{free_port()}",
        "CONFIRMATIONS": 1,
        **more,
    }


def examined(home: Path, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The doctor's findings, by name."""
    done = inside(home, "doctor", "--json", **settings)
    return {check["name"]: check for check in done.json()["checks"]}


# Which one ------------------------------------------------------------------------------------------------------------


def of(**settings: Any) -> Settings:
    return Settings(_env_file=None, **settings)


@pytest.mark.parametrize(
    ("settings", "source"),
    [
        ({}, None),
        ({"backend_private_key": OWNER_KEY}, "BACKEND_PRIVATE_KEY"),
        ({"keystore_file": "k", "keystore_password_file": "p"}, "KEYSTORE_FILE"),
        ({"keystore_file": "k", "keystore_password_file": "p", "private_key": OWNER_KEY}, "KEYSTORE_FILE"),
        ({"remote_signer_url": "http://s", "remote_signer_address": OWNER}, "REMOTE_SIGNER_URL"),
    ],
)
def test_key_source__one_given__is_that_one(settings: dict[str, Any], source: str | None) -> None:
    assert of(**settings).key_source() == source


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"backend_private_key": OWNER_KEY, "keystore_file": "k", "keystore_password_file": "p"},
            "BACKEND_PRIVATE_KEY and KEYSTORE_FILE are set",
        ),
        (
            {"backend_private_key": OWNER_KEY, "remote_signer_url": "http://s", "remote_signer_address": OWNER},
            "BACKEND_PRIVATE_KEY and REMOTE_SIGNER_URL are set",
        ),
        ({"keystore_file": "k"}, "KEYSTORE_FILE is set and KEYSTORE_PASSWORD_FILE is not"),
        ({"keystore_password_file": "p"}, "KEYSTORE_PASSWORD_FILE is set and KEYSTORE_FILE is not"),
        ({"remote_signer_url": "http://s"}, "REMOTE_SIGNER_URL is set and REMOTE_SIGNER_ADDRESS is not"),
        ({"remote_signer_address": OWNER}, "REMOTE_SIGNER_ADDRESS is set and REMOTE_SIGNER_URL is not"),
        ({"private_key": OWNER_KEY}, "the keeper reads BACKEND_PRIVATE_KEY"),
    ],
)
def test_key_source__several_or_half_a_one__is_refused(settings: dict[str, Any], said: str) -> None:
    """`open_signer` gives the one signer that is configured, or None when none is"""
    with pytest.raises(Misconfigured, match=said):
        of(**settings).key_source()


# Keystore -------------------------------------------------------------------------------------------------------------


def test_keystore__right_password__is_the_key_and_both_are_hidden(tmp_path: Path) -> None:
    paths = keystore(tmp_path)
    hidden: list[str] = []
    signer = open_keystore(*paths.values(), hidden.append)
    assert signer.address == OWNER
    assert hidden == [PASSWORD, OWNER_KEY[2:]]


async def test_keystore__signs__as_the_key_in_the_environment_does(tmp_path: Path) -> None:
    signer = open_keystore(*keystore(tmp_path).values())
    assert await signer.sign(TRANSACTION) == await KeySigner(OWNER_KEY).sign(TRANSACTION)


def test_keystore__as_geth_makes_it__opens(tmp_path: Path) -> None:
    """scrypt, the address without 0x, a password file with another line ending."""
    paths = keystore(tmp_path)
    document = Account.encrypt(OWNER_KEY, PASSWORD, kdf="scrypt", iterations=2**4)
    assert document["crypto"]["kdf"] == "scrypt"
    assert not document["address"].startswith("0x")
    paths["KEYSTORE_FILE"].write_text(json.dumps(document))
    paths["KEYSTORE_PASSWORD_FILE"].write_bytes(PASSWORD.encode() + b"\r\n")
    assert open_keystore(*paths.values()).address == OWNER


def spoil_password(file: Path, password_file: Path) -> None:
    password_file.write_text("another password\n")


def open_keystore_to_others(file: Path, password_file: Path) -> None:
    file.chmod(0o644)


def open_password_to_others(file: Path, password_file: Path) -> None:
    password_file.chmod(0o640)


def remove_password(file: Path, password_file: Path) -> None:
    password_file.unlink()


def no_json(file: Path, password_file: Path) -> None:
    file.write_text(OWNER_KEY)


def no_version(file: Path, password_file: Path) -> None:
    file.write_text('{"version": 1, "crypto": {}}')


def no_crypto(file: Path, password_file: Path) -> None:
    file.write_text('{"version": 3, "crypto": {"kdf": "none"}}')


def other_address(file: Path, password_file: Path) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | {"address": "11" * 20}))


SPOILT: list[tuple[Callable[[Path, Path], None], str]] = [
    (spoil_password, "KEYSTORE_PASSWORD_FILE .*not the password"),
    (open_keystore_to_others, "KEYSTORE_FILE .*open to others .mode 0644.*chmod 600"),
    (open_password_to_others, "KEYSTORE_PASSWORD_FILE .*open to others .mode 0640.*chmod 600"),
    (remove_password, "KEYSTORE_PASSWORD_FILE .*No such file"),
    (no_json, "KEYSTORE_FILE .*not a keystore of version 3"),
    (no_version, "KEYSTORE_FILE .*not a keystore of version 3"),
    (no_crypto, "KEYSTORE_FILE .*can't be decrypted"),
    (other_address, "KEYSTORE_FILE .*says it is for"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=lambda one: getattr(one, "__name__", ""))
def test_keystore__something_wrong__is_one_line_without_a_secret(
    spoil: Callable[[Path, Path], None], said: str, tmp_path: Path
) -> None:
    """ "one line that names the setting and the file; the password and the key are in no message". A file that others
    can read or write is refused, as ssh does it."""
    paths = keystore(tmp_path)
    spoil(*paths.values())
    with pytest.raises(Misconfigured, match=said) as raised:
        open_keystore(*paths.values())
    text = str(raised.value)
    assert "\n" not in text
    assert PASSWORD not in text
    assert OWNER_KEY[2:] not in text


def test_run__wrong_password__exits_2_with_one_line(world: World, tmp_path: Path) -> None:
    """what only a person can mend raises Misconfigured, one line, before anything is signed."""
    paths = keystore(tmp_path)
    spoil_password(*paths.values())
    done = inside(tmp_path, "run", **given(world, tmp_path, **paths))
    assert done.code == 2
    assert done.err.startswith("langdao-keeper: KEYSTORE_PASSWORD_FILE")
    assert len(done.err.splitlines()) == 1
    found = examined(tmp_path, given(world, tmp_path, **paths))
    assert found["key"]["result"] == "failed"
    assert "KEYSTORE_PASSWORD_FILE" in found["key"]["remedy"]


def test_settle__keystore__ends_it_as_the_owner(world: World, tmp_path: Path) -> None:
    world.start(0, 0)
    settings = given(world, tmp_path, **keystore(tmp_path))
    found = examined(tmp_path, settings)
    assert found["key"]["value"] == f"{OWNER}, the owner, by KEYSTORE_FILE: direct mode"
    done = inside(tmp_path, "settle", str(world.counter()), "--yes", "--json", **settings)
    assert done.json()["outcome"] == "settled", done.text
    assert not world.is_active(0)
    assert PASSWORD not in done.text


# Remote signer --------------------------------------------------------------------------------------------------------


async def signed(signer: Web3Signer, transaction: dict[str, Any] = TRANSACTION, timeout_s: float = 5.0) -> Any:
    async with serving(signer.app) as url:
        remote = RemoteSigner(f"{url}/eth", OWNER, timeout_s=timeout_s)
        try:
            return await remote.sign(transaction)
        finally:
            await remote.close()


@pytest.mark.parametrize("transaction", [TRANSACTION, LEGACY, TRANSACTION | {"to": OWNER, "data": "0x"}])
async def test_remote_signer__honest__returns_what_the_key_itself_would(transaction: dict[str, Any]) -> None:
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    assert await signed(signer, transaction) == await KeySigner(OWNER_KEY).sign(transaction)
    [(method, [asked])] = signer.asked
    assert method == "eth_signTransaction"
    assert asked["from"] == OWNER
    assert asked["nonce"] == "0x7"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("nonce", 8),
        ("to", "0x" + "22" * 20),
        ("value", 1),
        ("data", "0x7ce02794" + "00" * 12 + "12" * 20),
        ("gas", 300_001),
        ("maxFeePerGas", 3_000_000_001),
        ("maxPriorityFeePerGas", 999_999_999),
        ("chainId", 1),
    ],
)
async def test_remote_signer__another_field__is_refused(name: str, value: Any) -> None:
    """ "taken only if it is exactly the transaction asked for, field by field"."""
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    signer.twist = lambda transaction: transaction.update({name: value})
    with pytest.raises(SignerFailed, match=f"{name} differs"):
        await signed(signer)


async def test_remote_signer__legacy_for_another_chain__is_refused() -> None:
    with pytest.raises(SignerFailed, match="chainId differs"):
        await signed(Web3Signer(OWNER_KEY, 1), LEGACY)


async def test_remote_signer__another_key__is_refused() -> None:
    """ "signed by the address asked for"."""
    other = Web3Signer(OTHER_KEY, ANVIL_CHAIN)
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    signer.instead = lambda _: other.sign(signer.asked[-1][1][0])
    with pytest.raises(SignerFailed, match=f"signed by {other.account.address}"):
        await signed(signer)


async def test_remote_signer__access_list__is_refused() -> None:
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    entry = {"address": OWNER, "storageKeys": []}
    signer.twist = lambda transaction: transaction.update({"accessList": [entry]})
    with pytest.raises(SignerFailed, match="access list"):
        await signed(signer)


def with_high_s(raw: str) -> str:
    fields = rlp.decode(bytes.fromhex(raw[4:]))
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    fields[-1] = (order - int.from_bytes(fields[-1])).to_bytes(32)
    fields[-3] = b"" if fields[-3] else b"\x01"
    return "0x02" + rlp.encode(fields).hex()


@pytest.mark.parametrize(
    "answer",
    [
        with_high_s,
        lambda raw: raw[:-2],
        lambda raw: raw + "00",
        lambda raw: raw[:-64] + "00" * 32,
        lambda raw: "0x",
        lambda raw: "not hex",
        lambda raw: None,
        lambda raw: {"raw": raw},
        lambda raw: "0x02c0",
        lambda raw: "0x02" + rlp.encode([[b"x"]] * 12).hex(),
    ],
)
async def test_remote_signer__anything_else__is_refused(answer: Callable[[str], Any]) -> None:
    """anything else raises `SignerFailed` and is never stored or sent."""
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    signer.instead = answer
    with pytest.raises(SignerFailed, match="what wasn't asked for"):
        await signed(signer)


async def test_remote_signer__no_answer__fails_within_its_time() -> None:
    """ "Each request ends within the time-out"."""
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    signer.late_s = 30.0
    with pytest.raises(SignerFailed, match=r"didn't answer within 0\.2 s"):
        await asyncio.wait_for(signed(signer, timeout_s=0.2), 20)


async def test_remote_signer__redirect__isnt_followed() -> None:
    elsewhere = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    async with serving(elsewhere.app) as url:
        signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
        signer.elsewhere = url
        with pytest.raises(SignerFailed):
            await signed(signer)
    assert elsewhere.asked == []


async def test_remote_signer__out_of_reach_or_refusing__shows_no_path_and_no_password() -> None:
    """Of the URL only scheme and host show."""
    remote = RemoteSigner(f"http://user:hunter22@127.0.0.1:{free_port()}/token0123456789", OWNER, timeout_s=2)
    with pytest.raises(SignerFailed) as raised:
        await remote.sign(TRANSACTION)
    await remote.close()
    for text in (str(raised.value), repr(remote)):
        assert "hunter22" not in text
        assert "token0123456789" not in text
    with pytest.raises(SignerFailed, match="Unable to identify the signer"):
        await signed(Web3Signer(OTHER_KEY, ANVIL_CHAIN))


def test_settle__remote_signer__ends_it_as_the_owner(world: World, tmp_path: Path) -> None:
    world.start(1, 1)
    signer = Web3Signer(OWNER_KEY, ANVIL_CHAIN)
    with beside(serving(signer.app)) as url:
        settings = given(world, tmp_path, REMOTE_SIGNER_URL=url, REMOTE_SIGNER_ADDRESS=OWNER.lower())
        found = examined(tmp_path, settings)
        assert found["key"]["value"] == f"{OWNER}, the owner, by REMOTE_SIGNER_URL: direct mode"
        done = inside(tmp_path, "settle", str(world.counter()), "--yes", "--json", **settings)
    assert done.json()["outcome"] == "settled", done.text
    assert [method for method, _ in signer.asked].count("eth_signTransaction") == 1
    assert not world.is_active(1)


def test_run__remote_signer_without_that_key__exits_2_with_one_line(world: World, tmp_path: Path) -> None:
    with beside(serving(Web3Signer(OTHER_KEY, ANVIL_CHAIN).app)) as url:
        settings = given(world, tmp_path, REMOTE_SIGNER_URL=url, REMOTE_SIGNER_ADDRESS=OWNER)
        done = inside(tmp_path, "run", **settings)
    assert done.code == 2
    assert done.err.startswith(f"langdao-keeper: REMOTE_SIGNER_ADDRESS {OWNER}: the signer at {url} has no key for it")
    assert len(done.err.splitlines()) == 1


def test_doctor__remote_signer_out_of_reach__fails_and_names_it(world: World, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    settings = given(world, tmp_path, REMOTE_SIGNER_URL=url, REMOTE_SIGNER_ADDRESS=OWNER)
    found = examined(tmp_path, settings)
    assert found["key"]["result"] == "failed"
    assert f"the signer at {url} can't be reached" in found["key"]["value"]
    assert found["key"]["remedy"]


def test_doctor__two_keys__says_which(world: World, tmp_path: Path) -> None:
    settings = given(world, tmp_path, BACKEND_PRIVATE_KEY=OWNER_KEY, **keystore(tmp_path))
    found = examined(tmp_path, settings)
    assert found["settings"]["result"] == "failed"
    assert "BACKEND_PRIVATE_KEY and KEYSTORE_FILE are set" in found["settings"]["value"]
    assert found["key"]["result"] == "skipped"
