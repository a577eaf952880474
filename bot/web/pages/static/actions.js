/* <langdao-actions>: the buttons of till.js, on the keeper's own page and in the prompt of a host page. */
import { STEPS, statement, tillOf } from "./till.js";
const { Part, h, put } = LangDAO;
const SAID = {
  asked: "Confirm in your wallet.",
  sent: "Sent. Waiting for a block.",
  mined: "Mined. One moment.",
  signed: "Sign in your wallet; this costs nothing.",
  taken: "Noted. The keeper is ending it now.",
  answered: "Noted: the lesson goes on.",
};
/** The three buttons, what became of them, and one error with one button. */
class Actions extends Part {
  build(root) {
    this.till = tillOf(this.feed);
    this.till.addEventListener("change", () => this.show());
    const button = (name, text, kind) =>
      (this[name] = h(
        "button",
        { type: "button", part: "button " + name, className: kind, onclick: () => this.till[name]() },
        text,
      ));
    this.buttons = h(
      "div",
      { className: "col", part: "buttons" },
      button("pay", "End session & pay", "main"),
      button("endForMe", "End it for me", ""),
      button("stillHere", "We are still in the lesson", ""),
    );
    this.steps = h("ol", { part: "steps" }, ...STEPS.map((step) => h("li", {}, step[0].toUpperCase() + step.slice(1))));
    this.said = h("p", { role: "status", part: "status" });
    this.err = h(
      "div",
      { className: "err", part: "error" },
      h("p", { role: "alert" }),
      h("button", { type: "button", onclick: () => this.till.remedy() }),
    );
    this.pick = h("div", { className: "col", part: "wallets" });
    root.append(h("div", { className: "col" }, this.buttons, this.pick, this.steps, this.said, this.err));
  }
  show() {
    const { till, feed, mode } = this,
      { step, error, doing } = till,
      over = feed.over,
      at = STEPS.indexOf(step);
    this.buttons.hidden = !feed.lesson || over || at >= 0 || step === "taken";
    this.stillHere.hidden = mode === "running" || step === "answered";
    for (const one of [this.pay, this.endForMe, this.stillHere]) one.disabled = !!doing;
    this.steps.hidden = at < 0;
    [...this.steps.children].forEach((one, n) => {
      one.className = n < at || step === "settled" ? "done" : "";
      n === at ? one.setAttribute("aria-current", "step") : one.removeAttribute("aria-current");
    });
    this.err.hidden = !error || (over && error.code !== "over");
    if (error) {
      put(this.err.firstChild, error.text);
      put(this.err.lastChild, error.button);
    }
    if (this.shown !== till.choices) {
      this.shown = till.choices;
      this.pick.replaceChildren(
        ...(till.choices ?? []).map((one) => h("button", { type: "button", onclick: one.pick }, one.name)),
      );
    }
    put(this.said, this.words());
  }
  /** Where it stands, in a sentence. */
  words() {
    const { till, feed } = this;
    if (till.choices) return "Which wallet?";
    if (feed.over) return STEPS.includes(till.step) ? "Settled. The lesson has ended and is paid." : "";
    if (till.step === "taken" && feed.lesson?.hold) return "Noted. The keeper is paused and ends it as soon as it may.";
    if (till.step in SAID) return SAID[till.step];
    if (till.doing === "stillHere") return SAID.signed;
    return till.doing ? "Looking at your wallet." : "";
  }
}
customElements.define("langdao-actions", Actions);
for (const feed of LangDAO.feeds()) tillOf(feed); // takes up what was begun before a reload
LangDAO.statement = statement;
export { tillOf };
