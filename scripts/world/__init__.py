"""A whole LangDAO on this machine: chain, backend, keeper, participants. See `devnet.py` and `demo.py`.

Nothing here imports `bot`: the keeper is a program that is started, killed and judged from outside.
"""
