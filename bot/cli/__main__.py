"""`python -m bot.cli` is the same as `langdao-keeper`."""

from bot.cli import main

main()
