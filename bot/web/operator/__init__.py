"""What an operator sees and does in a browser, on the keeper's own address.

site.py       the routes
access.py     who may act
hosts.py      under which names it may be asked for
templates/    the pages; style.css beside them
"""

from bot.web.operator.access import Access
from bot.web.operator.hosts import Hosts
from bot.web.operator.site import Desk, operator_routes

__all__ = ["Access", "Desk", "Hosts", "operator_routes"]
