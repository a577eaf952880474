"""Lets ape's Foundry provider talk to a Hardhat node.

The two nodes have the same methods under two prefixes. ape-hardhat is too old for this ape, and ape's provider for any
node can't go back to a snapshot, on which the isolation of tests rests.
"""

from typing import Any

from ape.exceptions import VirtualMachineError
from ape_foundry.provider import FoundryProvider
from web3 import HTTPProvider, Web3
from web3.gas_strategies.rpc import rpc_gas_price_strategy


def connect(provider: FoundryProvider) -> None:
    """Instead of `_set_web3`, which refuses whatever doesn't call itself Anvil."""
    provider._web3 = Web3(HTTPProvider(provider.uri, request_kwargs={"timeout": provider.timeout}))
    if not provider._web3.is_connected():
        provider._web3 = None
        return
    assert "hardhat" in provider._web3.client_version.lower(), f"no Hardhat node at {provider.uri}"
    provider._web3.eth.set_gas_price_strategy(rpc_gas_price_strategy)


def use() -> None:
    """From now on ape's provider is one for Hardhat. To be called before ape connects."""
    request = FoundryProvider.make_request

    def renamed(provider: FoundryProvider, rpc: str, parameters: Any = None) -> Any:
        if rpc == "anvil_setAutomine":
            rpc = "evm_setAutomine"
        return request(provider, rpc.replace("anvil_", "hardhat_"), parameters)

    def wrapped(provider: FoundryProvider, exception: Exception, **details: Any) -> VirtualMachineError:
        # Ape reads Anvil's words, and asks for a kind of trace that Hardhat hasn't got.
        return VirtualMachineError(str(exception), base_err=exception, **details)

    FoundryProvider.get_virtual_machine_error = wrapped
    FoundryProvider._set_web3 = connect
    FoundryProvider.make_request = renamed
