# pragma version 0.4.3
"""
@title A smart account that speaks for one key (ERC-1271)
@notice Its signatures are that key's, with the account's own word before them: longer than 65 bytes, as most are.
"""

MAGIC: constant(bytes4) = 0x1626ba7e
PREFIX: constant(Bytes[32]) = b"smart account signature, 32 byte"

key: public(address)


@deploy
def __init__(key: address):
    self.key = key


@view
@external
def isValidSignature(digest: bytes32, signature: Bytes[97]) -> bytes4:
    assert len(signature) == 97, "not this account's signature"
    assert slice(signature, 0, 32) == PREFIX, "not this account's signature"
    r: uint256 = convert(slice(signature, 32, 32), uint256)
    s: uint256 = convert(slice(signature, 64, 32), uint256)
    v: uint256 = convert(slice(signature, 96, 1), uint256)
    if ecrecover(digest, v, r, s) == self.key:
        return MAGIC
    return empty(bytes4)
