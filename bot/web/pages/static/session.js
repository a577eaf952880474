/* /s/<id>: keeps what the server rendered up to date, by the feed of langdao.js; the buttons are actions.js's. */
const { open, pending, money, clock, short, put } = LangDAO;
const $ = (id) => document.getElementById(id);
const page = $("page"),
  words = JSON.parse($("words").textContent),
  name = page.dataset.name;
const feed = open(name, JSON.parse($("state").textContent)); // before the elements open it without a state
const till = (await LangDAO.act()).tillOf(feed);
let button = null;
$("no-script")?.remove();

const moment = (s) =>
  s ? new Date(s * 1000).toLocaleString("en-GB", { dateStyle: "medium", timeStyle: "medium" }) : "";
const set = (id, text) => put($(id), text);
const hide = (id, hidden) => {
  if ($(id).hidden !== hidden) $(id).hidden = hidden;
};

/** The one thing that is wrong with the page itself; what went wrong with a button stands beside the buttons. */
const troubled = (state) => {
  if (feed.link === "unknown") return "unknown";
  if (feed.link === "down") return "down";
  if (!feed.lesson || feed.over) return null;
  if (feed.state.keeper === "down") return "keeper-away";
  return feed.lesson.hold && words.trouble[feed.lesson.hold] ? feed.lesson.hold : null;
};

const show = () => {
  const one = feed.lesson,
    sums = feed.figures();
  const state = one ? one.state : feed.link === "unknown" ? "unknown" : feed.state ? "none" : "unknown";
  page.dataset.state = state;
  set("pill", words.pills[state]);
  const headline = words.headlines[state === "due" && one.ask ? "ask" : state];
  if ($("headline").textContent !== headline) {
    set("headline", headline);
    set("heard", headline);
  }
  document.title = (one && !feed.over ? clock(sums.seconds) + " · " : "") + headline + " · LangDAO";
  set("why", one?.why || words.why[state] || "");
  for (const id of ["meter", "facts"]) hide(id, !one);
  document.querySelector("langdao-actions").hidden = !one || (feed.over && !till.step);
  hide("bill", !one?.bill);
  if (one) figures(one, sums, state);
  const trouble = troubled();
  hide("trouble", !trouble);
  if (trouble) {
    const [text, label, does] = words.trouble[trouble];
    set("trouble-text", text);
    set("trouble-button", label);
    button = does;
    hide("trouble-button", does === "pay" && !!till.step);
  }
};

const figures = (one, sums, state) => {
  set("clock", clock(sums.seconds));
  set("cost", sums.cost === null ? "…" : money(sums.cost));
  set("rate", one.rate === null ? "" : money(BigInt(one.rate) * 60n) + " a minute");
  const counts = state === "due" && sums.left !== null;
  set("when-text", state === "held" ? "" : state === "due" && !counts ? words.when.open : (words.when[state] ?? ""));
  set("left", counts ? clock(sums.left) : "");
  hide("when", !$("when-text").textContent);
  const lasts = feed.over || sums.lasts === null || sums.lasts > 900 ? null : sums.lasts;
  hide("lasts", lasts === null);
  if (lasts !== null) set("lasts", lasts > 0 ? `${words.when.lasts} ${clock(lasts)}.` : words.when.drained);
  const you = (address) =>
    short(address) + (till.account && till.account.toLowerCase() === address.toLowerCase() ? " (you)" : "");
  set("student", you(one.student));
  $("student").title = one.student;
  set("tutor", you(one.tutor));
  $("tutor").title = one.tutor;
  set("number", String(one.sessionId));
  set("began", moment(one.startedAt));
  if (!one.bill) return remember(one);
  const bill = one.bill;
  set("bill-ended", `${words.endedBy[bill.endedBy] ?? ""} ${moment(bill.endedAt)}`.trim());
  hide("over-row", !bill.overbilledSeconds);
  if (bill.overbilledSeconds) set("over", `${money(bill.overbilled)} PYUSD, ${clock(bill.overbilledSeconds)}`);
  hide("tx-row", !bill.txHash);
  if (!bill.txHash) return;
  set("tx", bill.txHash.slice(0, 10) + "…" + bill.txHash.slice(-6));
  if (page.dataset.explorer) $("tx").href = `${page.dataset.explorer}/tx/${bill.txHash}`;
};

/** So that /s/ finds this lesson again in this tab. */
const remember = (one) => {
  if (pending()) return;
  const languageId = feed.state.rooms[0]?.languageId ?? feed.state.chain?.session?.languageId ?? 0;
  pending({
    requestId: name,
    tutorAddress: one.tutor,
    studentAddress: one.student,
    languageId,
    startTime: Date.now(),
  });
};

$("trouble-button").addEventListener("click", () => (button === "pay" ? till.pay() : feed.refresh()));
feed.addEventListener("change", show);
till.addEventListener("change", show);
setInterval(show, 500);
show();
