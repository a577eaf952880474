# pragma version ==0.4.3
"""
@title GasBurner
@license MIT
@notice An ERC-20 for local chains whose `transfer` can be told to burn all the gas it is given.
@dev Anybody may mint and arm it. Deposits go on working while it is armed: only `transfer`, with which LangDAO pays
     tutors, burns. An account can be spared, so that sessions with and without the trouble share one token.
"""
from ethereum.ercs import IERC20

implements: IERC20

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])

# Transfers to these accounts burn.
isTrap: public(HashMap[address, bool])


@external
def setTrap(account: address, armed: bool):
    self.isTrap[account] = armed


@external
def transfer(to: address, amount: uint256) -> bool:
    if self.isTrap[to]:
        # An invalid instruction takes everything that is left.
        raise UNREACHABLE
    self._move(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    assert self.allowance[owner][msg.sender] >= amount, "insufficient allowance"
    self.allowance[owner][msg.sender] -= amount
    self._move(owner, to, amount)
    return True


@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    log IERC20.Approval(owner=msg.sender, spender=spender, value=amount)
    return True


@external
def mint(to: address, amount: uint256):
    self.totalSupply += amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=empty(address), receiver=to, value=amount)


@internal
def _move(owner: address, to: address, amount: uint256):
    assert self.balanceOf[owner] >= amount, "insufficient funds"
    self.balanceOf[owner] -= amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=owner, receiver=to, value=amount)
