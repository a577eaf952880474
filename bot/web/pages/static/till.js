/* What signs and sends: wallets, the steps of an end, signed statements. Loaded by langdao.js when somebody may want to
   act. Plain EIP-1193 calls; holds no keys, and sends nothing but what a button says. */
const { base, kept, local, pending } = LangDAO;
const END = "0x7ce02794",
  ACTIVE = "0x23ef2936"; // endSession(address), activeSessions(address)
const ENDED = "0x1f566c0c31d295290bb19b5162e239dbdeeb51107556dd0c39b1a86a303ed393"; // SessionEnded
const GAS = 300000; // fixed: an estimate of the first second is too low by a whole transfer
const KEEP_MS = 2 * 3600 * 1000; // what was begun longer ago is forgotten
export const STEPS = ["asked", "sent", "mined", "settled"];
const same = (a, b) => String(a).toLowerCase() === String(b).toLowerCase();
const word = (hex) => hex.replace(/^0x/, "").toLowerCase().padStart(64, "0");
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const hexed = (bytes) => "0x" + [...bytes].map((n) => n.toString(16).padStart(2, "0")).join("");
class Trouble extends Error {
  constructor(code) {
    super(code);
    this.code = code;
  }
}
// Each: one sentence, one button, and what the button does.
const ERRORS = {
  "no-wallet": ["No wallet was found in this browser.", "Look again", "again"],
  refused: ["You said no in your wallet, so nothing was sent.", "Ask again", "again"],
  pending: ["Your wallet is already asking: open it and answer there.", "Ask again", "again"],
  "wrong-network": ["Your wallet is on another network than this lesson.", "Switch network", "switchNetwork"],
  "no-gas": ["Your account has too little ETH to pay the network fee.", "End it for me instead", "endForMe"],
  stranger: [
    "This account is neither the student nor the tutor of this lesson.",
    "Choose another account",
    "switchAccount",
  ],
  over: ["This lesson has already ended.", "Show the bill", "refresh"],
  failed: ["The transaction failed, and the lesson is still running.", "Try again", "again"],
  lost: ["Your wallet dropped the transaction, and the lesson is still running.", "Try again", "again"],
  busy: ["Another tab is already asking your wallet.", "Try again", "again"],
  interrupted: ["This page was reloaded while your wallet was asking.", "Ask again", "again"],
  expired: ["The signature came too late.", "Sign again", "again"],
  limited: ["Too many requests came from your network; wait a minute.", "Try again", "again"],
  "chain-away": ["The chain can't be reached right now, so nothing was changed.", "Try again", "again"],
  down: ["The server can't be reached right now.", "Try again", "again"],
  other: ["That didn't work, and nothing was changed.", "Try again", "again"],
};

// Wallets: EIP-6963, else window.ethereum -----------------------------------------------------------------------------
const announced = new Map();
addEventListener("eip6963:announceProvider", ({ detail }) => announced.set(detail.info.uuid, detail));
const wallets = async () => {
  dispatchEvent(new Event("eip6963:requestProvider"));
  await sleep(60);
  if (announced.size) return [...announced.values()];
  return window.ethereum ? [{ info: { uuid: "injected", name: "Browser wallet" }, provider: window.ethereum }] : [];
};
const codeOf = (error) => {
  if (error instanceof Trouble) return error.code;
  const code = error?.code,
    text = String(error?.message ?? "").toLowerCase();
  if (code === 4001 || code === "ACTION_REJECTED") return "refused";
  if (code === -32002) return "pending";
  if (code === 4902 || code === 4901) return "wrong-network";
  return text.includes("insufficient funds") ? "no-gas" : "other";
};

// Ending and answering ------------------------------------------------------------------------------------------------
/** One lesson's buttons. `step`: null, asked, sent, mined, settled; signed, taken; answered. Fires `change`. */
class Till extends EventTarget {
  constructor(feed) {
    super();
    this.feed = feed;
    this.error = null;
    this.doing = null;
    this.choices = null;
    this.account = null;
    feed.addEventListener("change", () => this.look());
    addEventListener("storage", (event) => {
      if (event.key === this.key) {
        this.load();
        this.changed();
      }
    });
  }
  get key() {
    return this.feed.lesson && this.feed.key;
  }
  get step() {
    return this.record?.step ?? null;
  }
  changed() {
    this.dispatchEvent(new Event("change"));
  }
  load() {
    this.record = this.key ? kept(local, this.key) : null;
    if (this.record && Date.now() - this.record.at > KEEP_MS) this.drop();
  }
  note(step, more) {
    this.record = { ...this.record, ...more, step, at: Date.now() };
    kept(local, this.key, this.record);
    this.changed();
  }
  drop() {
    this.record = null;
    if (this.key) kept(local, this.key, null);
  }
  /** The feed said something, or the page was opened: take up what was left. */
  look() {
    if (!this.feed.lesson) return;
    if (!this.loaded) {
      this.loaded = true;
      this.load();
      if (this.step === "asked") {
        this.drop();
        if (!this.feed.over) this.fail("interrupted", "pay");
      } else if (this.step === "signed") {
        this.drop();
        if (!this.feed.over) this.fail("interrupted", "endForMe");
      } else if (this.step === "sent" && !this.feed.over) this.run("pay", () => this.follow());
    }
    if (this.feed.over && this.step && this.step !== "settled" && this.step !== "answered") this.settled();
    if (this.step === "settled" && !this.record.told) this.tell();
    if (this.step === "answered" && this.feed.lesson.state === "running" && Date.now() - this.record.at > 30000)
      this.drop();
    this.changed();
  }
  fail(code, doing) {
    this.error = { code, doing, text: ERRORS[code][0], button: ERRORS[code][1] };
    this.changed();
  }
  /** The error's button. */
  remedy() {
    const { code, doing } = this.error,
      name = ERRORS[code][2];
    return name === "again" ? this[doing]() : this[name](doing);
  }
  async run(doing, work) {
    if (this.doing) return;
    this.doing = doing;
    this.error = null;
    this.changed();
    const alone = async (lock) => {
      if (lock === null) throw new Trouble("busy"); // another tab has it
      await work();
    };
    try {
      if (navigator.locks && this.key) await navigator.locks.request(this.key, { ifAvailable: true }, alone);
      else await work();
    } catch (error) {
      const code = codeOf(error);
      if (["asked", "signed"].includes(this.step) && code !== "busy") this.drop();
      this.fail(code, doing);
      if (code === "over") this.feed.refresh();
    }
    this.doing = null;
    this.changed();
  }
  /** The button End session & pay. */
  pay() {
    return this.run("pay", async () => {
      const { provider, account, lesson } = await this.signer();
      if (parseInt(await this.ask(provider, "eth_chainId"), 16) !== lesson.chainId) throw new Trouble("wrong-network");
      await this.stillActive(provider);
      const [balance, price] = await Promise.all([
        this.ask(provider, "eth_getBalance", account, "latest"),
        this.ask(provider, "eth_gasPrice"),
      ]);
      if (BigInt(balance) < BigInt(price) * BigInt(GAS)) throw new Trouble("no-gas");
      this.note("asked", { from: account, hash: null, told: false });
      const data = END + word(lesson.tutor),
        gas = "0x" + GAS.toString(16);
      const hash = await this.ask(provider, "eth_sendTransaction", {
        from: account,
        to: lesson.contract,
        data,
        gas,
      });
      this.note("sent", { hash });
      await this.follow(provider);
    });
  }
  /** The button End it for me. */
  endForMe() {
    return this.run("endForMe", async () => {
      this.note("signed", {});
      await this.state("end-session");
      this.note("taken", {});
    });
  }
  /** The button We are still in the lesson. */
  stillHere() {
    return this.run("stillHere", async () => {
      await this.state("still-here");
      this.note("answered", {});
    });
  }
  switchNetwork(doing) {
    return this.run(doing, async () => {
      const chainId = "0x" + this.feed.lesson.chainId.toString(16);
      await this.ask(await this.wallet(), "wallet_switchEthereumChain", { chainId });
    }).then(() => {
      if (!this.error) return this[doing]();
    });
  }
  switchAccount(doing) {
    return this.run(doing, async () => {
      await this.ask(await this.wallet(), "wallet_requestPermissions", { eth_accounts: {} });
    }).then(() => {
      if (!this.error) return this[doing]();
    });
  }
  refresh() {
    this.error = null;
    this.changed();
    return this.feed.refresh();
  }
  async wallet(quietly) {
    const found = await wallets(),
      known = kept(local, "langdao.wallet");
    if (!found.length) throw new Trouble("no-wallet");
    let one = found.length === 1 ? found[0] : found.find((each) => each.info.rdns && each.info.rdns === known);
    if (!one && quietly) one = found[0];
    if (!one) {
      one = await new Promise((pick) => {
        this.choices = found.map((each) => ({ name: each.info.name, pick: () => pick(each) }));
        this.changed();
      });
      this.choices = null;
      kept(local, "langdao.wallet", one.info.rdns ?? null);
    }
    return one.provider;
  }
  ask(provider, method, ...params) {
    return provider.request({ method, params });
  }
  async signer() {
    const lesson = this.feed.lesson,
      provider = await this.wallet();
    const mine = [lesson.student, lesson.tutor],
      accounts = await this.ask(provider, "eth_requestAccounts");
    const account = mine.find((one) => accounts.some((given) => same(given, one)));
    if (!account) throw new Trouble("stranger");
    this.account = account;
    return { provider, account, lesson };
  }
  /** The tutor's active session has to be this one: endSession ends whatever the tutor has. */
  async stillActive(provider) {
    const { contract, tutor, sessionId, student } = this.feed.lesson;
    const words = (await this.ask(provider, "eth_call", { to: contract, data: ACTIVE + word(tutor) }, "latest")).slice(
      2,
    );
    const at = (n) => words.slice(64 * n, 64 * n + 64);
    if (BigInt("0x" + (at(8) || "0")) !== BigInt(sessionId) || !same(at(0), word(student))) throw new Trouble("over");
  }
  async follow(provider) {
    provider ??= await this.wallet(true);
    let unseen = 0;
    while (this.step === "sent") {
      const receipt = await this.ask(provider, "eth_getTransactionReceipt", this.record.hash).catch(() => null);
      if (receipt) return this.mined(provider, receipt);
      const known = await this.ask(provider, "eth_getTransactionByHash", this.record.hash).catch(() => true);
      unseen = known ? 0 : unseen + 1;
      if (unseen > 12) {
        this.drop();
        throw new Trouble("lost");
      }
      await sleep(1500);
    }
  }
  /** Only SessionEnded with this session's id is an end. */
  async mined(provider, receipt) {
    const { contract, sessionId } = this.feed.lesson;
    const ended = receipt.logs.some(
      (log) => same(log.address, contract) && log.topics[0] === ENDED && BigInt(log.topics[1]) === BigInt(sessionId),
    );
    if (parseInt(receipt.status, 16) === 1 && ended) {
      this.note("mined", {});
      await sleep(400); // long enough to be seen
      return this.settled();
    }
    this.drop();
    await this.stillActive(provider);
    throw new Trouble("failed");
  }
  settled() {
    this.note("settled", {});
    pending(null);
    return this.tell();
  }
  /** The backend is told with the hash. The payment stands whether it hears it or not. */
  async tell() {
    const { hash, from } = this.record,
      lesson = this.feed.lesson;
    if (!hash || this.telling) return;
    this.telling = true;
    try {
      const said = {
        sessionId: lesson.rooms[0] ?? String(lesson.sessionId),
        userAddress: from,
        transactionHash: hash,
      };
      const answer = await this.post("/api/webrtc-session-ended", said);
      if (answer.status < 500 && answer.status !== 429) this.note("settled", { told: true });
    } catch {
      /* again when the backend is heard again */
    }
    this.telling = false;
  }
  post(path, said) {
    const headers = { "Content-Type": "application/json" };
    return fetch(base + path, { method: "POST", headers, body: JSON.stringify(said) }).catch(() => {
      throw new Trouble("down");
    });
  }
  /** Signs a statement and hands it in. The words are those of bot/domain/statement.py. */
  async state(action) {
    const { provider, account, lesson } = await this.signer(),
      id = lesson.sessionId;
    const expires = Math.floor(this.feed.state.nowMs / 1000 + this.feed.age) + 600;
    const nonce = hexed(crypto.getRandomValues(new Uint8Array(16)));
    const text = statement({
      action,
      address: account,
      contract: lesson.contract,
      chainId: lesson.chainId,
      id,
      expires,
      nonce,
    });
    const signature = await this.ask(provider, "personal_sign", hexed(new TextEncoder().encode(text)), account);
    const answer = await this.post(`/api/sessions/${id}/statements`, {
      action,
      address: account,
      expires,
      nonce,
      signature,
    });
    if (answer.ok) return;
    const { reason } = await answer.json().catch(() => ({}));
    throw new Trouble(
      { "not-a-participant": "stranger", "no-such-session": "over" }[reason] ??
        (reason in ERRORS ? reason : answer.status >= 500 ? "down" : "other"),
    );
  }
}
export const statement = ({ action, address, contract, chainId, id, expires, nonce }) => {
  const [title, meaning] =
    action === "end-session"
      ? ["LangDAO: end my lesson now", `Session ${id} ends, and is paid up to that moment.`]
      : ["LangDAO: my lesson goes on", `Session ${id} goes on, and goes on being billed.`];
  const until = new Date(expires * 1000).toISOString().slice(0, 19) + "Z";
  return [
    title,
    "",
    meaning,
    "",
    `Action: ${action}`,
    `Session: ${id}`,
    `Address: ${address}`,
    `Contract: ${contract}`,
    `Chain: ${chainId}`,
    `Expires: ${until}`,
    `Nonce: ${nonce}`,
  ].join("\n");
};

const tills = new WeakMap();
/** One till a feed, however many elements show it. */
export const tillOf = (feed) => {
  if (!tills.has(feed)) {
    tills.set(feed, new Till(feed));
    tills.get(feed).look();
  }
  return tills.get(feed);
};
