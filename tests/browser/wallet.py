"""A wallet in the browser: announced by EIP-6963, spoken to by EIP-1193, signing with the accounts of a test's chain.

Promises: what the page sends is really mined, and what it signs is really signed. A test can have the wallet refuse,
wait for its user, be on another network, or have another account.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from playwright.async_api import BrowserContext

from tests.support.anvil import Anvil, CallFailed
from tests.support.servers import until

INJECTED = """
((name) => {
  const request = async ({ method, params }) => {
    const answer = await window.__wallet(name, method, params ?? []);
    if (answer.error) throw Object.assign(new Error(answer.error.message), answer.error);
    return answer.result;
  };
  const detail = Object.freeze({
    info: { uuid: name, name, rdns: "test." + name.toLowerCase().replace(/ /g, "-"), icon: "data:," },
    provider: { request },
  });
  const announce = () => window.dispatchEvent(new CustomEvent("eip6963:announceProvider", { detail }));
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})(%r);
"""


@dataclass
class Wallet:
    """`refuses` methods with 4001; what it `holds` waits for its user."""

    node: Anvil
    accounts: list[str]
    chain_id: int | None = None  # None: the chain's own
    refuses: set[str] = field(default_factory=set)
    failing: dict[str, dict[str, Any]] = field(default_factory=dict)  # method: the error it answers
    holds: set[str] = field(default_factory=set)  # methods that wait for their user
    calls: list[tuple[str, list[Any]]] = field(default_factory=list)
    names: tuple[str, ...] = ("Test Wallet",)
    used: list[str] = field(default_factory=list)
    knows_network: bool = True

    async def install(self, context: BrowserContext) -> None:
        await context.expose_function("__wallet", self._asked)
        for name in self.names:
            await context.add_init_script(INJECTED % name)

    def sent(self, method: str) -> list[list[Any]]:
        return [params for name, params in self.calls if name == method]

    async def _asked(self, name: str, method: str, params: list[Any]) -> dict[str, Any]:
        self.calls.append((method, params))
        self.used.append(name)
        await until(lambda: method not in self.holds, 60, 0.05)
        if method in self.refuses:
            return {"error": {"code": 4001, "message": "User rejected the request."}}
        if method in self.failing:
            return {"error": self.failing[method]}
        if method in ("eth_requestAccounts", "eth_accounts"):
            return {"result": [account.lower() for account in self.accounts]}
        if method == "eth_chainId" and self.chain_id is not None:
            return {"result": hex(self.chain_id)}
        if method == "wallet_switchEthereumChain":
            if not self.knows_network:
                return {"error": {"code": 4902, "message": "Unrecognized chain ID."}}
            self.chain_id = None
            return {"result": None}
        if method == "wallet_requestPermissions":
            return {"result": []}
        try:
            return {"result": await asyncio.to_thread(self.node.rpc, method, *params)}
        except CallFailed as error:
            return {"error": {"code": -32000, "message": str(error)}}
