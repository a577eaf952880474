"""Writes the ABI files, and the guard's code, from the contracts' sources.

The stand-in is written in Vyper, the deployed contract in Solidity. Their bytes are the same, but their compilers
describe them differently; what is written for LangDAO is the description that Solidity gives, so that the keeper's
code never sees which of the two it talks to. `contracts/interfaces/` is the reference, and the package carries a
copy of what it needs.

    make abi
"""

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONTRACTS = ROOT / "contracts"

Abi = list[dict[str, Any]]

ABI_FILES = {
    CONTRACTS / "LangDAO.vy": [
        CONTRACTS / "interfaces" / "LangDAO.json",
        ROOT / "bot" / "chain" / "abi" / "LangDAO.json",
    ],
    CONTRACTS / "SettlementGuard.vy": [
        CONTRACTS / "interfaces" / "SettlementGuard.json",
        ROOT / "bot" / "chain" / "abi" / "SettlementGuard.json",
    ],
    CONTRACTS / "mocks" / "PYUSD.vy": [CONTRACTS / "interfaces" / "PYUSD.json"],
}

# The guard's code without its immutables: the keeper compares it with what stands on chain.
CODE_FILES = {CONTRACTS / "SettlementGuard.vy": ROOT / "bot" / "chain" / "abi" / "SettlementGuard.runtime.hex"}

# The one function that returns a struct; all others return its fields one by one. The bytes are the same, as every
# struct here has a fixed size.
RETURNS_STRUCT = {"getSession"}


def as_solidity(abi: Abi) -> Abi:
    """The same interface, described as Solidity's compiler does. Leaves its argument alone."""
    described = []
    for entry in json.loads(json.dumps(abi)):
        if entry["type"] == "fallback":
            entry["type"] = "receive"
        if entry["type"] == "event" and entry["name"] == "PaymentProcessed":
            entry["inputs"][0]["name"] = "from"  # a reserved word in Vyper
        for argument in entry.get("inputs", []):
            if argument["name"].startswith("arg"):  # a public mapping's key
                argument["name"] = ""
        outputs = entry.get("outputs", [])
        if len(outputs) == 1 and outputs[0]["type"] == "tuple" and entry["name"] not in RETURNS_STRUCT:
            entry["outputs"] = outputs[0]["components"]
        described.append(entry)
    return sorted(described, key=lambda entry: (entry["type"], entry.get("name", "")))


def as_text(abi: Abi) -> str:
    """One entry a line: a change of the interface reads as one line in a diff."""
    return "[\n" + ",\n".join("  " + json.dumps(entry) for entry in abi) + "\n]\n"


def compiled(source: Path, output: str) -> Any:
    # Only contributors have the compiler.
    from vyper.cli.vyper_compile import compile_files

    (found,) = compile_files([source], [output]).values()
    return found[output]


def as_lines(code: str) -> str:
    """Hex without its prefix, in lines that a diff can show."""
    digits = code.removeprefix("0x")
    return "".join(digits[at : at + 120] + "\n" for at in range(0, len(digits), 120))


def main() -> None:
    for source, targets in ABI_FILES.items():
        abi = as_solidity(compiled(source, "abi"))
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(as_text(abi))
            print(f"{target.relative_to(ROOT)}: {len(abi)} entries")
    for source, target in CODE_FILES.items():
        code = compiled(source, "bytecode_runtime")
        target.write_text(as_lines(code))
        print(f"{target.relative_to(ROOT)}: {len(code) // 2 - 1} bytes")


if __name__ == "__main__":
    main()
