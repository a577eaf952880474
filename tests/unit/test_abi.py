"""The package carries a copy of the reference ABI. The contract tests hold the reference to the compiled source."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_packaged_abi__is_the_reference_byte_for_byte():
    reference = ROOT / "contracts" / "interfaces" / "LangDAO.json"
    packaged = ROOT / "bot" / "chain" / "abi" / "LangDAO.json"
    assert packaged.read_bytes() == reference.read_bytes(), "run `make abi`"


def test_packaged_guard_abi__is_the_reference_byte_for_byte():
    reference = ROOT / "contracts" / "interfaces" / "SettlementGuard.json"
    packaged = ROOT / "bot" / "chain" / "abi" / "SettlementGuard.json"
    assert packaged.read_bytes() == reference.read_bytes(), "run `make abi`"
