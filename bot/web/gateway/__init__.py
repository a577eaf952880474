"""The bundled backend: the documented LangDAO integration, for the devnet, the tests and whoever has none.

It emits the documented `webrtc:*` events, beyond them `webrtc:user-connected` and `webrtc:session-heartbeat`, and
`session:ready` / `session:ended`; everything it emits carries `trust`, which says how it came to know. It reads the
chain, where it is told of one, and never sends to it. What it knows survives a restart, in Redis or in a file of its
own.
"""

from bot.web.gateway.config import GatewayConfig
from bot.web.gateway.server import create_gateway, serve

__all__ = ["GatewayConfig", "create_gateway", "serve"]
