/* /debug: buttons for mock lessons, and the tape of what happens. */
const $ = (id) => document.getElementById(id);
const ACTS = { end: "Hang up", lose: "Lose the connection", return: "Come back", freeze: "Freeze (time-out)" };
const made = (tag, props, ...inside) => {
  const one = Object.assign(document.createElement(tag), props);
  one.append(...inside);
  return one;
};

const post = async (path) => {
  const answer = await fetch("/debug/" + path, { method: "POST" }),
    said = await answer.json();
  $("said").textContent = answer.ok ? "" : said.detail;
  return answer.ok ? said : null;
};

const fill = (li) => {
  const { room, id } = li.dataset,
    act = (name) =>
      made(
        "button",
        { type: "button", className: "button", onclick: () => post(`lessons/${room}/${name}`) },
        ACTS[name],
      );
  const as = (who) => made("a", { href: `/s/${id}?as=${who}`, target: "_blank", rel: "noopener" }, `Open as ${who}`);
  li.append(
    made("p", {}, made("strong", {}, `Session ${id}`), ` ${room} `, as("student"), " ", as("tutor")),
    made("div", { className: "acts" }, ...Object.keys(ACTS).map(act)),
  );
};

$("begin").onclick = async () => {
  $("begin").disabled = true;
  $("said").textContent = "Starting a session on chain.";
  const one = await post("lessons");
  $("begin").disabled = false;
  if (!one) return;
  const li = made("li", {});
  Object.assign(li.dataset, { room: one.room, id: one.sessionId });
  fill(li);
  $("plays").prepend(li);
};

const at = (ms) => new Date(ms).toLocaleTimeString("en-GB");
const WORDS = {
  plan: (said) =>
    [
      `session ${said.sessionId}: ${said.state}`,
      ["running", "ended-on-chain"].includes(said.reason) ? "" : `because ${said.reason}`,
      said.dueMs ? `end due ${at(said.dueMs)}` : "",
      said.hold ? `held: ${said.hold}` : "",
      said.bill ? `${said.bill.paid / 1e6} PYUSD` : "",
    ]
      .filter(Boolean)
      .join(", "),
  nudge: (said) =>
    `session ${said.sessionId}: ${said.reason}; reached ${said.delivered.length}, missed ${Object.keys(said.undelivered).length}`,
  fact: (said) =>
    [said.sessionId, said.endedBy ?? said.disconnectedUser ?? said.userRole, said.reason, said.trust]
      .filter((one) => one != null)
      .join(" · "),
};
const before = new Map(); // a plan that differs only in what isn't shown is no news here
let newest = 0;
const line = (one) => {
  if (one.n <= newest) return;
  newest = one.n;
  const words = WORDS[one.kind](one.said);
  if (one.kind === "plan" && before.get(one.said.sessionId) === words) return;
  if (one.kind === "plan") before.set(one.said.sessionId, words);
  $("tape").prepend(
    made(
      "li",
      { className: one.kind },
      made("time", {}, at(one.atMs)),
      made("b", {}, one.kind === "plan" ? "decision" : one.kind === "nudge" ? "nudge" : one.event),
      made("span", { title: JSON.stringify(one.said) }, words),
    ),
  );
  while ($("tape").children.length > 300) $("tape").lastChild.remove();
};

document.querySelectorAll("#plays li").forEach(fill);
JSON.parse($("lines").textContent).forEach(line);
new EventSource("/debug/events").onmessage = ({ data }) => line(JSON.parse(data));
