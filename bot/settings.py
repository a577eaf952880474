"""Every knob of the keeper: type, default, unit, environment name, and one line of why.

Promises: settings come from the environment and from `.env` (the environment wins), and are checked once
(`bot.loading` reads them). Secrets are `SecretStr`, have no command-line flag, and
never show in a repr; a URL is shown by scheme and host only (`bot.values.shown`).
Doesn't promise: that a setting is true of the world. `run` and `doctor` look.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from bot import values
from bot.domain.policy import Hints, Policy
from bot.errors import Misconfigured

KeySource = Literal["BACKEND_PRIVATE_KEY", "KEYSTORE_FILE", "REMOTE_SIGNER_URL"]
KEY_SOURCES: tuple[KeySource, ...] = get_args(KeySource)
KEY_PAIRS = (
    ("KEYSTORE_FILE", "KEYSTORE_PASSWORD_FILE"),
    ("KEYSTORE_PASSWORD_FILE", "KEYSTORE_FILE"),
    ("REMOTE_SIGNER_URL", "REMOTE_SIGNER_ADDRESS"),
    ("REMOTE_SIGNER_ADDRESS", "REMOTE_SIGNER_URL"),
)


class Settings(BaseSettings):
    """The keeper's settings. Field names are lower case; the environment name is the same in upper case."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    # Chain
    rpc_url: SecretStr | None = Field(
        None, description="JSON-RPC endpoint of the chain, http(s) or ws(s); a comma-separated list fails over"
    )
    contract_address: str | None = Field(None, description="address of the LangDAO contract")
    start_block: int | None = Field(
        None, ge=0, description="block of the contract's deployment; found by bisection when not given"
    )
    private_key: SecretStr | None = Field(
        None, description="not read: the backend's own name for its key; here it is BACKEND_PRIVATE_KEY"
    )
    backend_private_key: SecretStr | None = Field(
        None,
        description="key that may end sessions: the guard's keeper's, or the contract owner's; without it the keeper "
        "only watches",
    )
    keystore_file: Path | None = Field(
        None, description="the same key in an encrypted keystore (geth's, version 3) instead; mode 0600"
    )
    keystore_password_file: Path | None = Field(
        None, description="file whose first line is the keystore's password; mode 0600"
    )
    remote_signer_url: SecretStr | None = Field(
        None, description="a web3signer that holds the same key instead (JSON-RPC over http or https)"
    )
    remote_signer_address: str | None = Field(None, description="address of the key that the remote signer signs with")
    remote_signer_timeout_s: float = Field(5.0, gt=0, le=60, description="how long the remote signer may take")
    confirmations: int = Field(
        2, ge=1, le=10_000, description="blocks, counting its own, after which a settlement is 'confirmed'"
    )
    poll_interval_s: float = Field(1.0, gt=0, le=60, description="seconds between looks at the head of the chain")
    start_timeout_s: float = Field(10.0, gt=0, le=600, description="seconds that `run` waits for the RPC at start")

    # Backend
    socket_url: SecretStr | None = Field(None, description="Socket.IO address of the backend")
    socket_events: Annotated[dict[str, str], NoDecode] = Field(
        {},
        description='more event names to hear, as JSON: {"call:over": "ended"}; kinds: ended, disconnected, timeout, '
        "connected, heartbeat, ready; an empty kind ignores a name of the two dialects",
    )
    socket_auth: SecretStr | None = Field(None, description="JSON object for the Socket.IO handshake's `auth`")
    socket_headers: SecretStr | None = Field(None, description="JSON object of headers for the Socket.IO handshake")
    next_public_backend_url: SecretStr | None = Field(
        None, description="another name for SOCKET_URL, as the pages know it"
    )
    redis_url: SecretStr | None = Field(None, description="the backend's Redis, for its session:<room> mappings")
    gateway: bool = Field(
        False,
        description="1: `run` serves the bundled backend too, on GATEWAY_BIND; that is SOCKET_URL then, if none is set",
    )
    gateway_token: SecretStr | None = Field(
        None, description="token shared by the keeper and the bundled backend; nudges and the record need it"
    )
    signalling_url: SecretStr | None = Field(
        None,
        description="ws(s) address of the signalling server: the keeper opens a room of its own there and expects a "
        "post about it, which tells a silent room from a silent feed",
    )
    backend_events_url: SecretStr | None = Field(
        None,
        description="where the backend itself takes the signalling server's posts: the keeper passes them on, while "
        "they can hit no other lesson; without a path, /api/webrtc-events",
    )
    backend_posts_per_minute: int = Field(
        90, ge=4, le=100_000, description="requests a minute to it; the observed backends refuse the 101st"
    )
    backend_end_max_age_s: float = Field(
        60, gt=0, le=600, description="an end or a loss that couldn't be passed on for so long no longer is"
    )
    backend_verifies_ends: bool = Field(
        False,
        description="1: the backend looks at the chain before it believes POST /api/webrtc-session-ended; the observed "
        "ones end the tutor's next lesson instead",
    )
    webhook_open: bool = Field(
        False,
        description="1 opens POST /api/webrtc-events to anonymous posts, which can only make the keeper look and nudge",
    )

    # Addresses to listen on and to be reached at
    http_bind: str = Field("127.0.0.1:4100", description="host:port of the keeper's own HTTP server")
    http_hosts: str | None = Field(
        None, description="more names, separated by commas, by which its pages may be asked for: docs/monitor.md"
    )
    trusted_proxies: str | None = Field(
        None,
        description="addresses or networks of reverse proxies, separated by commas: their X-Forwarded-For says who "
        "asks, and limits count by that; nobody else's is believed, loopback's neither",
    )
    gateway_bind: str = Field(
        "127.0.0.1:4000", description="host:port of the bundled backend (`langdao-keeper gateway`)"
    )
    gateway_requests_per_minute: int = Field(
        100,
        ge=1,
        le=1_000_000,
        description="requests a minute that the bundled backend takes from one address without a secret; behind a "
        "proxy that TRUSTED_PROXIES doesn't name all pages share one",
    )
    public_url: str | None = Field(
        None,
        description="http(s) address under which others reach this keeper: `webhook` prints it, and the links by which "
        "participants answer a question (`/v/…`) begin with it",
    )

    # Nudges, besides those by GATEWAY_TOKEN: docs/nudges.md
    nudge_chat: bool = Field(
        False,
        description="1: nudges go out as `chat:message` too, which the newest observed backend relays; a participant "
        "who isn't connected is missed, and then everybody gets it",
    )
    nudge_event: str | None = Field(
        None,
        description="name of an event that the backend at SOCKET_URL relays to its `to`; nudges go out as that too",
    )
    nudge_webhook_url: SecretStr | None = Field(None, description="your own program, which gets each nudge as JSON")
    nudge_webhook_secret: SecretStr | None = Field(
        None, description="what its requests are signed with: `whsec_` and base64, or any text of 24 characters or more"
    )
    contacts_file: Path | None = Field(
        None, description="file of participants' addresses, languages and Apprise URLs; mode 0600"
    )
    debug_page: bool = Field(
        False,
        description="1: the bundled backend has /debug, for mock lessons, and a wallet in its pages; local chains only",
    )
    explorer_url: str | None = Field(
        None, description="a block explorer, e.g. https://sepolia.etherscan.io: the pages link transactions to it"
    )

    # Store and alerts
    database_url: SecretStr | None = Field(
        None, description="SQLAlchemy URL; default: SQLite under $XDG_STATE_HOME/langdao-keeper"
    )
    gateway_secret_file: Path | None = Field(
        None, description="file with the bundled backend's own webhook secret; default: in the state directory"
    )
    gateway_state_file: Path | None = Field(
        None,
        description="file in which the bundled backend keeps its rooms where REDIS_URL is not set; default: "
        "gateway-<port>.db in the state directory",
    )
    webhook_secret_file: Path | None = Field(
        None,
        description="file with the webhook's secret; default: beside the database, made at first start with mode 0600",
    )
    backup_every_h: float = Field(
        24,
        ge=0,
        le=8_760,
        description="hours between copies of an SQLite database, made at work; 0: none",
    )
    backup_keep: int = Field(7, ge=1, le=1_000, description="copies that are kept, the newest ones")
    backup_folder: Path | None = Field(None, description="where they go; default: `backups` beside the database")
    apprise_urls: SecretStr | None = Field(
        None, description="Apprise URLs that alerts are sent to, separated by spaces or commas"
    )
    alert_patience_s: float = Field(
        60, ge=0, le=3_600, description="how long the head, a feed, the key or the database may be in trouble unalerted"
    )
    head_old_s: float = Field(120, gt=0, le=3_600, description="the node counts as stuck after so long without a block")
    heartbeat_ping_url: SecretStr | None = Field(
        None,
        description="dead man's switch: asked for (GET) each minute while head, feeds and database are healthy; who "
        "waits for it calls you when it stays away",
    )
    operator_token: SecretStr | None = Field(
        None,
        description="secret with which the status page and its API may settle, pause, resume and release; without it "
        "nothing can be changed over HTTP",
    )

    # Log
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="the least severe events that are logged: debug, info, warning or error"
    )

    # Sending
    dry_run: bool = Field(False, description="1: watch and explain, never sign")
    gas_limit: int = Field(
        300_000,
        ge=300_000,
        le=16_000_000,
        description="gas limit of endSession; an estimate can be too low by a whole transfer",
    )
    replace_after_blocks: int = Field(
        3, ge=1, le=1_000, description="blocks after which an unmined transaction is replaced at a higher fee"
    )
    max_attempts: int = Field(
        3, ge=1, le=100, description="tries for a session whose end reverts before it is set aside"
    )
    max_in_flight: int = Field(64, ge=1, le=1_000, description="unmined transactions at a time")
    max_fee_gwei: float = Field(
        100.0, gt=0, description="highest fee per gas that a retraction may pay; settlements stop at 1/1.25 of it"
    )
    max_fee_multiple: float = Field(
        5.0, ge=1, description="highest multiple of the fee suggested now that a settlement may pay"
    )
    daily_gas_budget_eth: float = Field(0.2, gt=0, description="ETH that settlements may burn in 24 hours")
    min_balance_eth: float = Field(0.01, ge=0, description="ETH below which the key signs nothing new")
    balance_warning_settlements: int = Field(
        100, ge=0, description="an alert comes when the key's ETH is good for fewer settlements than this"
    )
    probe_every_s: float = Field(
        60.0, gt=0, description="seconds between looks whether a session that was set aside could be ended now"
    )

    # The policy's times, in seconds
    disconnect_grace_s: float = Field(
        30, ge=0, description="how long a lost connection may come back, and silence after an end hint"
    )
    nudge_window_s: float = Field(
        60, ge=0, description="how long participants have to end and pay themselves after a nudge"
    )
    nudge_again_s: float = Field(
        30, ge=1, description="a nudge is repeated so long after it, then after twice, four times as long"
    )
    nudge_repeats: int = Field(3, ge=0, le=10, description="how often; 0: never")
    heartbeat_timeout_s: float = Field(
        60, gt=0, description="silence after which a session that had heartbeats counts as dead"
    )
    heartbeat_arm_count: int = Field(3, ge=2, description="heartbeats needed before their silence means anything")
    heartbeat_arm_s: float = Field(30, ge=0, description="seconds they must span")
    pay_wait_s: float = Field(45, ge=0, description="wait, once, for a participant's own endSession seen in the pool")
    backend_head_start_s: float = Field(
        12,
        ge=0,
        description="with the owner's key no hint ends a session sooner: a working backend ends it itself, with the "
        "same key; the guard's keeper doesn't wait",
    )
    contradiction_cap_s: float = Field(
        600, gt=0, description="how long an end hint and signs of life may contradict each other"
    )
    drain_warning_s: float = Field(300, ge=0, description="nudge so long before the student's balance is used up")
    drain_grace_s: float = Field(300, ge=0, description="end so long after it was used up")
    orphan_after_s: float = Field(7200, gt=0, description="age at which a session never heard of off chain is reported")
    end_orphans: bool = Field(False, description="1: end such sessions too")
    feed_silence_s: float = Field(
        45, gt=0, description="the webhook feed counts as down after so long without a post; below HEARTBEAT_TIMEOUT_S"
    )
    sole_room_timeout_s: float = Field(300, gt=0, description="silence of the only room heard ends it only after this")
    trust_backend_hints: Literal["yes", "corroborated", "no"] = Field(
        "yes",
        description="what the backend's word that a lesson is over can do: yes, it ends it unless contradicted; "
        "corroborated, only with silence of heartbeats or a delivered nudge beside it; no, it never does",
    )
    mass_end_count: int = Field(10, ge=0, description="the mass-end breaker trips at more ends than this within 30 s")
    mass_end_share: float = Field(
        0.5, ge=0, le=1, description="if they are more than this share of active sessions too"
    )
    mass_hold_max_s: float = Field(
        900, gt=0, description="how long it holds the ends of sessions that have been silent since, without `resume`"
    )
    effect_max_age_s: float = Field(600, gt=0, description="nobody is messaged about anything older")

    _address = field_validator("contract_address", "remote_signer_address")(values.address)
    _key = field_validator("backend_private_key")(values.private_key)
    _node_urls = field_validator("rpc_url")(values.node_urls)
    _url = field_validator("socket_url", "next_public_backend_url", "redis_url", "database_url", "backend_events_url")(
        values.url
    )
    _webhook_secret = field_validator("nudge_webhook_secret")(values.webhook_secret)
    _event_name = field_validator("nudge_event")(values.event_name)
    _token = field_validator("operator_token")(values.token)
    _http_url = field_validator("remote_signer_url", "nudge_webhook_url", "heartbeat_ping_url")(values.http_url)
    _ws_url = field_validator("signalling_url")(values.ws_url)
    _public = field_validator("public_url", "explorer_url")(values.base_url)
    _object = field_validator("socket_auth", "socket_headers")(values.json_object)
    _files = field_validator(
        "keystore_file",
        "keystore_password_file",
        "contacts_file",
        "gateway_secret_file",
        "gateway_state_file",
        "webhook_secret_file",
        "backup_folder",
    )(values.file)
    _database = field_validator("database_url")(values.database)
    _events = field_validator("socket_events", mode="before")(values.names_in_json)
    _hosts = field_validator("http_hosts")(values.host_names)
    _networks = field_validator("trusted_proxies")(values.networks)
    _bind = field_validator("http_bind", "gateway_bind")(values.host_and_port)

    @model_validator(mode="after")
    def _one_backend(self) -> Settings:
        ours, theirs = self.socket_url, self.next_public_backend_url
        if ours and theirs and ours.get_secret_value().rstrip("/") != theirs.get_secret_value().rstrip("/"):
            raise ValueError("SOCKET_URL and NEXT_PUBLIC_BACKEND_URL are both set and differ: keep one of them")
        self.socket_url = ours or theirs
        if self.gateway and self.socket_url is None:
            host, _, port = self.gateway_bind.rpartition(":")
            self.socket_url = SecretStr(f"http://{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}")
        return self

    def webhook_key(self) -> str:
        """What nudges to NUDGE_WEBHOOK_URL are signed with. Raises Misconfigured when it isn't set."""
        if self.nudge_webhook_secret is None:
            raise Misconfigured(
                "NUDGE_WEBHOOK_URL is set and NUDGE_WEBHOOK_SECRET is not: they go together. "
                "Make one with `openssl rand -hex 32`, and give it to the program too"
            )
        return self.nudge_webhook_secret.get_secret_value()

    def proxies(self) -> list[str]:
        """Whose X-Forwarded-For is believed."""
        return self.trusted_proxies.split(",") if self.trusted_proxies else []

    def policy(self) -> Policy:
        """The times of `decide`, in milliseconds."""
        return Policy(
            disconnect_grace_ms=_ms(self.disconnect_grace_s),
            nudge_window_ms=_ms(self.nudge_window_s),
            nudge_again_ms=_ms(self.nudge_again_s),
            nudge_repeats=self.nudge_repeats,
            heartbeat_timeout_ms=_ms(self.heartbeat_timeout_s),
            heartbeat_arm_count=self.heartbeat_arm_count,
            heartbeat_arm_ms=_ms(self.heartbeat_arm_s),
            pay_wait_ms=_ms(self.pay_wait_s),
            backend_head_start_ms=_ms(self.backend_head_start_s),
            contradiction_cap_ms=_ms(self.contradiction_cap_s),
            drain_warning_ms=_ms(self.drain_warning_s),
            drain_grace_ms=_ms(self.drain_grace_s),
            orphan_after_ms=_ms(self.orphan_after_s),
            end_orphans=self.end_orphans,
            sole_room_timeout_ms=_ms(self.sole_room_timeout_s),
            effect_max_age_ms=_ms(self.effect_max_age_s),
            hints=Hints(self.trust_backend_hints),
            mass_end_count=self.mass_end_count,
            mass_end_share=self.mass_end_share,
            mass_hold_max_ms=_ms(self.mass_hold_max_s),
        )

    def endpoints(self) -> tuple[str, ...]:
        """The RPC endpoints in order of preference. Raises Misconfigured when there is none."""
        if self.rpc_url is None:
            elsewhere = (
                ""
                if Path(".env").exists()
                else ". There is no .env here: go to the keeper's folder, or make one with `langdao-keeper init`"
            )
            raise Misconfigured(
                "RPC_URL is not set: the JSON-RPC address of the chain, e.g. RPC_URL=http://127.0.0.1:8545" + elsewhere
            )
        return tuple(part.strip() for part in self.rpc_url.get_secret_value().split(",") if part.strip())

    def shared_token(self) -> str:
        """The token that keeper and bundled backend share. Raises Misconfigured when it isn't set."""
        if self.gateway_token is None:
            raise Misconfigured(
                "GATEWAY_TOKEN is not set: a secret of your choice that the keeper and the bundled backend share, "
                "e.g. GATEWAY_TOKEN=$(openssl rand -hex 16) in both their environments"
            )
        return self.gateway_token.get_secret_value()

    def key_source(self) -> KeySource | None:
        """The setting that names the key, None when there is none: then the keeper only watches.

        Raises Misconfigured when several do, when half of one is missing, or when the key was given under the
        backend's name.
        """
        given: list[KeySource] = [name for name in KEY_SOURCES if getattr(self, name.lower()) is not None]
        if len(given) > 1:
            raise Misconfigured(f"{' and '.join(given)} are set, and only one may be. Keep the one that is meant")
        for one, other in KEY_PAIRS:
            if getattr(self, one.lower()) is not None and getattr(self, other.lower()) is None:
                raise Misconfigured(f"{one} is set and {other} is not: they go together")
        if given:
            return given[0]
        if self.private_key is not None:
            raise Misconfigured(
                "PRIVATE_KEY is set, but the keeper reads BACKEND_PRIVATE_KEY. "
                "Give the same key under that name, or unset it to only watch"
            )
        return None

    def key(self) -> str | None:
        """The private key in the environment, 0x and 64 hex digits, or None. Raises as `key_source`."""
        self.key_source()
        return self.backend_private_key.get_secret_value() if self.backend_private_key is not None else None

    def keystore(self) -> tuple[Path, Path]:
        """The keystore's file and its password's. Raises Misconfigured unless both are set."""
        if self.keystore_file is None or self.keystore_password_file is None:
            raise Misconfigured("KEYSTORE_FILE and KEYSTORE_PASSWORD_FILE are not both set: they go together")
        return self.keystore_file, self.keystore_password_file

    def remote_signer(self) -> tuple[str, str]:
        """The remote signer's URL and its key's address. Raises Misconfigured unless both are set."""
        if self.remote_signer_url is None or self.remote_signer_address is None:
            raise Misconfigured("REMOTE_SIGNER_URL and REMOTE_SIGNER_ADDRESS are not both set: they go together")
        return self.remote_signer_url.get_secret_value().strip(), self.remote_signer_address

    def contract(self) -> str:
        """The contract's checksummed address. Raises Misconfigured when it isn't set."""
        if self.contract_address is None:
            raise Misconfigured(
                "CONTRACT_ADDRESS is not set: the address of the LangDAO contract, e.g. CONTRACT_ADDRESS=0x…"
            )
        return self.contract_address


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
