# pragma version ==0.4.3
"""
@title PYUSD
@license MIT
@notice A 6-decimal ERC-20 for local chains that can be told to misbehave in the ways PYUSD can, and in one more.
@dev Anybody may mint, pause and freeze. While paused, or for a frozen account on either side, every transfer
     reverts. With `setReturnFalse(True)` a transfer moves nothing and answers `false` instead of reverting.
"""
from ethereum.ercs import IERC20
from ethereum.ercs import IERC20Detailed

implements: IERC20
implements: IERC20Detailed

event Pause: pass

event Unpause: pass

event FreezeAddress:
    addr: indexed(address)

event UnfreezeAddress:
    addr: indexed(address)

name: public(constant(String[10])) = "PayPal USD"
symbol: public(constant(String[5])) = "PYUSD"
decimals: public(constant(uint8)) = 6

totalSupply: public(uint256)
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])

paused: public(bool)
isFrozen: public(HashMap[address, bool])
returnsFalse: public(bool)


@external
def transfer(to: address, amount: uint256) -> bool:
    if self.returnsFalse:
        return False
    self._move(msg.sender, to, amount)
    return True


@external
def transferFrom(owner: address, to: address, amount: uint256) -> bool:
    if self.returnsFalse:
        return False
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


@external
def pause():
    self.paused = True
    log Pause()


@external
def unpause():
    self.paused = False
    log Unpause()


@external
def freeze(addr: address):
    self.isFrozen[addr] = True
    log FreezeAddress(addr=addr)


@external
def unfreeze(addr: address):
    self.isFrozen[addr] = False
    log UnfreezeAddress(addr=addr)


@external
def setReturnFalse(enabled: bool):
    self.returnsFalse = enabled


@internal
def _move(owner: address, to: address, amount: uint256):
    assert not self.paused, "whenNotPaused"
    assert not self.isFrozen[owner] and not self.isFrozen[to], "address frozen"
    assert self.balanceOf[owner] >= amount, "insufficient funds"
    self.balanceOf[owner] -= amount
    self.balanceOf[to] += amount
    log IERC20.Transfer(sender=owner, receiver=to, value=amount)
