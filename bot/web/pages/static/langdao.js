/* LangDAO: a lesson's status bar and closing prompt for any page, and what the keeper's own page is made of.

     <script src="https://backend.example/static/langdao.js"></script>
     <langdao-bar></langdao-bar> <langdao-prompt></langdao-prompt>

   Documented in docs/pages.md. No dependencies, no build step. Holds no keys, sends nothing but what a button says. */
(() => {
  "use strict";
  const BASE = (document.currentScript.dataset.backend || new URL(document.currentScript.src).origin).replace(
    /\/$/,
    "",
  );
  const POLL_MS = 5000,
    KEEP_MS = 2 * 3600 * 1000;

  // Words and numbers -------------------------------------------------------------------------------------------------
  const money = (units) => {
    const text = String(units ?? 0).padStart(7, "0"),
      part = text.slice(-6).replace(/0+$/, "").padEnd(3, "0");
    return text.slice(0, -6) + "." + part;
  };
  const clock = (seconds) => {
    const s = Math.max(0, Math.floor(seconds)),
      two = (n) => String(n).padStart(2, "0");
    return (
      (s >= 3600 ? Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) : Math.floor(s / 60)) + ":" + two(s % 60)
    );
  };
  const short = (address) => address.slice(0, 6) + "…" + address.slice(-4);

  // What is kept between reloads --------------------------------------------------------------------------------------
  const kept = (store, key, value) => {
    // storage may be forbidden; then nothing survives a reload, and all else works
    try {
      if (value === undefined) return JSON.parse(store().getItem(key));
      if (value === null) store().removeItem(key);
      else store().setItem(key, JSON.stringify(value));
    } catch {
      /* see above */
    }
    return null;
  };
  const session = () => sessionStorage,
    local = () => localStorage;
  /** sessionStorage.pendingSession, in the documented format; forgotten after two hours. */
  const pending = (value) => {
    if (value !== undefined) return kept(session, "pendingSession", value);
    const one = kept(session, "pendingSession");
    if (!one || typeof one.requestId !== "string" || !one.requestId) return null;
    const since = one.startTime || kept(session, "langdao.seen:" + one.requestId);
    if (!since) kept(session, "langdao.seen:" + one.requestId, Date.now());
    if (since && Date.now() - since > KEEP_MS) {
      kept(session, "pendingSession", null);
      return null;
    }
    return one;
  };

  // What the backend says, live ---------------------------------------------------------------------------------------
  /** `state` is GET /api/sessions/{id}, null while unknown; `link` is waiting, live, polling, down or unknown.
    Fires `change`. */
  class Feed extends EventTarget {
    constructor(id, state) {
      super();
      this.id = id;
      this.state = null;
      this.link = "waiting";
      this.url = BASE + "/api/sessions/" + encodeURIComponent(id);
      if (state) this.take(state);
      this.listen();
      this.poller = setInterval(() => this.link !== "live" && this.refresh(), POLL_MS);
      addEventListener("online", () => this.refresh());
    }
    get lesson() {
      return this.state?.session ?? null;
    }
    /** Under which the steps of an end are kept. */
    get key() {
      const one = this.lesson;
      return `langdao.end:${one.chainId}:${one.sessionId}:${one.student}`;
    }
    get over() {
      return this.lesson?.state === "ended";
    }
    /** Seconds since the state came, by a clock that nobody can set. */
    get age() {
      return (performance.now() - this.at) / 1000;
    }
    figures() {
      const one = this.lesson;
      if (!one) return null;
      if (one.bill) return { seconds: one.bill.seconds, cost: BigInt(one.bill.paid), left: null, lasts: null };
      const now = this.state.nowMs / 1000 + this.age,
        chain = this.state.chainNow + this.age;
      const seconds = one.startedAt ? Math.max(0, Math.floor(chain - one.startedAt)) : 0;
      let cost = one.rate === null ? null : BigInt(one.rate) * BigInt(seconds);
      if (cost !== null && one.balance !== null && cost > BigInt(one.balance)) cost = BigInt(one.balance);
      return {
        seconds,
        cost,
        left: one.dueMs === null ? null : Math.max(0, Math.ceil(one.dueMs / 1000 - now)),
        lasts: one.drainedMs === null ? null : one.drainedMs / 1000 - now,
      };
    }
    listen() {
      this.source?.close();
      if (!window.EventSource) return this.refresh();
      this.source = new EventSource(this.url + "/events");
      this.source.addEventListener("state", (event) => {
        this.take(JSON.parse(event.data), "live");
      });
      this.source.onerror = () => this.refresh();
    }
    /** Asks once; returns whether there was an answer. */
    async refresh() {
      try {
        const answer = await fetch(this.url, { cache: "no-store" });
        if (answer.status === 404) {
          this.state = null;
          this.become("unknown");
          return true;
        }
        if (!answer.ok) throw new Error(answer.status);
        const live = this.source && this.source.readyState === 1 && this.link === "live";
        this.take(await answer.json(), live ? "live" : "polling");
        if (this.source?.readyState === 2) this.listen();
        return true;
      } catch {
        this.become("down");
        return false;
      }
    }
    take(state, link) {
      if (!state) return this.become("unknown");
      this.state = state;
      this.at = performance.now();
      this.become(link || this.link);
    }
    become(link) {
      this.link = link;
      this.dispatchEvent(new Event("change"));
    }
  }

  const opened = new Map();
  /** The lesson with this chain id or room: one feed a page, however many elements show it. */
  const open = (id, state) => {
    if (!opened.has(id)) {
      const feed = new Feed(id, state);
      opened.set(id, feed);
      const look = () => {
        if (feed.over && pending()?.requestId === id) pending(null);
        if (!till && feed.lesson && kept(local, feed.key)) act(); // something was begun before a reload
      };
      feed.addEventListener("change", look);
      look();
    }
    return opened.get(id);
  };
  let till = null;
  /** Loads what signs and sends, once somebody may want to: host pages are spared it until then. */
  const act = () => (till ??= import(BASE + "/static/actions.js"));

  // Elements ----------------------------------------------------------------------------------------------------------
  const h = (tag, props = {}, ...inside) => {
    const one = document.createElement(tag);
    for (const [name, value] of Object.entries(props))
      name in one ? (one[name] = value) : one.setAttribute(name, value);
    one.append(...inside);
    return one;
  };
  const put = (one, text) => {
    if (one.textContent !== text) one.textContent = text;
  }; // or it would be read out again
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
  :host {
    --a:var(--langdao-accent,#0b6b50); --on:var(--langdao-on-accent,#fff); --i:var(--langdao-ink,#17211d);
    --p:var(--langdao-paper,#fff); --l:var(--langdao-line,#c9d3ce); --w:var(--langdao-alarm,#a32d12);
    font:var(--langdao-font,400 1rem/1.45 system-ui,sans-serif); color:var(--i);
  }
  @media(prefers-color-scheme:dark) {
    :host {
      --a:var(--langdao-accent,#6fd3af); --on:var(--langdao-on-accent,#06231a); --i:var(--langdao-ink,#e8efec);
      --p:var(--langdao-paper,#18211d); --l:var(--langdao-line,#3c4a44); --w:var(--langdao-alarm,#ff9c85);
    }
  }
  :host([hidden]),[hidden] { display:none!important; }
  p,h2,ol { margin:0; }
  button,.b {
    font:inherit; font-weight:600; min-height:3rem; padding:.6rem 1rem; border:1px solid var(--l);
    border-radius:var(--langdao-radius,.8rem); background:none; color:inherit; cursor:pointer;
  }
  button.main { background:var(--a); border-color:var(--a); color:var(--on); }
  button:disabled { opacity:.55; cursor:default; }
  :focus-visible { outline:3px solid var(--a); outline-offset:2px; }
  .col { display:grid; gap:.7rem; }
  ol {
    list-style:none; padding:0; display:grid; grid-template-columns:repeat(4,1fr); gap:.3rem; font-size:.85rem;
    text-align:center;
  }
  li { border-top:4px solid var(--l); padding-top:.3rem; }
  li.done,li[aria-current] { border-color:var(--a); font-weight:600; }
  .err { border-left:4px solid var(--w); padding:.2rem 0 .2rem .8rem; }
  .err p { margin-bottom:.5rem; }
  .bar {
    display:flex; flex-wrap:wrap; align-items:center; gap:.3rem .9rem; padding:.5rem 1rem; background:var(--p);
    border:1px solid var(--l); border-radius:var(--langdao-radius,.8rem);
  }
  .bar b,.num { font-variant-numeric:tabular-nums; }
  .bar button { min-height:2.5rem; padding:.2rem .9rem; margin-left:auto; }
  i { width:.7rem; height:.7rem; border-radius:50%; background:var(--l); }
  .on i { background:var(--a); }
  .due i { background:var(--w); }
  dialog {
    background:var(--p); color:inherit; border:1px solid var(--l); border-radius:1rem; padding:1.3rem;
    width:min(26rem,calc(100vw - 2rem)); box-sizing:border-box;
  }
  dialog::backdrop { background:#0009; }
  .num { font-size:1.7rem; font-weight:650; }
  a { color:var(--a); }
`);

  class Part extends HTMLElement {
    connectedCallback() {
      const id = this.getAttribute("session") || pending()?.requestId;
      this.hidden = !id;
      this.timer = setInterval(
        () => (id ? this.show() : (this.disconnectedCallback(), this.connectedCallback())),
        1000,
      );
      if (!id) return; // the host page may write it later
      this.feed = open(id);
      if (!this.shadowRoot) {
        this.attachShadow({ mode: "open" }).adoptedStyleSheets = [sheet];
        this.build(this.shadowRoot, id);
      }
      this.left = new AbortController();
      this.feed.addEventListener("change", () => this.show(), { signal: this.left.signal });
      this.show();
    }
    disconnectedCallback() {
      clearInterval(this.timer);
      this.left?.abort();
    }
    get mode() {
      return this.feed.lesson?.state ?? "unknown";
    }
  }
  class Bar extends Part {
    build(root, id) {
      this.text = h("span", { part: "text" });
      this.sum = h("b", { part: "figures" });
      this.end = h("button", { type: "button", part: "button", onclick: () => this.prompt() }, "End & pay");
      this.box = h(
        "div",
        { className: "bar", part: "bar", role: "region", ariaLabel: "Your lesson" },
        h("i"),
        this.text,
        this.sum,
        h(
          "a",
          {
            href: `${BASE}/s/${encodeURIComponent(id)}`,
            target: "_blank",
            rel: "noopener noreferrer",
            part: "link",
          },
          "Details",
        ),
        this.end,
      );
      root.append(this.box);
    }
    prompt() {
      let one = document.querySelector("langdao-prompt");
      if (!one) document.body.append((one = h("langdao-prompt", { session: this.feed.id })));
      one.ask();
    }
    show() {
      const one = this.feed.lesson,
        sums = this.feed.figures(),
        over = this.feed.over;
      this.box.classList.toggle("on", !!one && !over);
      this.box.classList.toggle("due", ["due", "ending", "held"].includes(this.mode));
      put(
        this.text,
        !one
          ? "Waiting for the lesson"
          : over
            ? "Lesson ended"
            : this.mode === "running"
              ? "Lesson running"
              : "Please end and pay",
      );
      put(this.sum, sums ? `${clock(sums.seconds)} · ${sums.cost === null ? "…" : money(sums.cost)} PYUSD` : "");
      this.end.hidden = !one || over;
    }
  }
  class Prompt extends Part {
    build(root, id) {
      this.head = h("h2", { id: "t" });
      this.why = h("p");
      this.sum = h("p", { className: "num" });
      this.when = h("p");
      this.box = h(
        "dialog",
        { part: "dialog", "aria-labelledby": "t" },
        h(
          "div",
          { className: "col" },
          this.head,
          this.why,
          this.sum,
          this.when,
          h("langdao-actions", { session: id, exportparts: "button,buttons,steps,status,error" }),
          h("button", { type: "button", onclick: () => this.box.close() }, "Close"),
        ),
      );
      root.append(this.box);
    }
    ask() {
      act();
      this.box.open || this.box.showModal();
      this.show();
    }
    show() {
      const one = this.feed.lesson,
        sums = this.feed.figures(),
        over = this.feed.over,
        call = over ? "over" : one?.reason;
      if (!one) return;
      // By itself once for each reason; an end only if it was seen running here.
      if ((over ? this.ran : this.mode !== "running") && this.called !== call) {
        this.called = call;
        if (!this.box.open) return this.ask();
      }
      this.ran ||= !over;
      put(this.head, over ? "The lesson has ended" : "End the lesson and pay?");
      put(this.why, over ? "" : one.why || "It is running, and billed by the second.");
      put(this.sum, `${clock(sums.seconds)} · ${sums.cost === null ? "…" : money(sums.cost)} PYUSD`);
      put(
        this.when,
        over || sums.left === null
          ? ""
          : one.hold
            ? "The keeper won't end it for now."
            : `The keeper ends it in ${clock(sums.left)}.`,
      );
    }
  }
  window.LangDAO = {
    base: BASE,
    open,
    feeds: () => opened.values(),
    act,
    pending,
    money,
    clock,
    short,
    kept,
    local,
    Part,
    h,
    put,
  };
  customElements.define("langdao-bar", Bar);
  customElements.define("langdao-prompt", Prompt);
})();
