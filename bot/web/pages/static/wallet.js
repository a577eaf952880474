/* The devnet's built-in wallet, announced by EIP-6963 where DEBUG_PAGE=1. It holds no key: the local chain's node signs,
   for the student of the lesson, or with ?as=tutor for the tutor. */
(() => {
  "use strict";
  const as = new URLSearchParams(location.search).get("as") === "tutor" ? "tutor" : "student";
  const lesson = () =>
    JSON.parse(document.getElementById("state").textContent)?.session ?? LangDAO.feeds().next().value?.lesson;
  const request = async ({ method, params = [] }) => {
    if (method === "eth_requestAccounts" || method === "eth_accounts") return [lesson()[as]];
    if (method === "wallet_switchEthereumChain" || method === "wallet_requestPermissions") return null;
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch("/debug/wallet", {
        method: "POST",
        headers,
        body: JSON.stringify({ method, params }),
      }),
      said = await answer.json();
    if (!answer.ok || said.error)
      throw Object.assign(new Error(said.error?.message ?? said.detail), { code: said.error?.code ?? -32603 });
    return said.result;
  };
  const info = {
    uuid: "00000000-0000-4000-8000-00000000da0d",
    name: `Test wallet (${as})`,
    rdns: "local.langdao.devnet",
    icon: "data:image/svg+xml,",
  };
  const announce = () =>
    window.dispatchEvent(
      new CustomEvent("eip6963:announceProvider", { detail: Object.freeze({ info, provider: { request } }) }),
    );
  window.addEventListener("eip6963:requestProvider", announce);
  announce();
})();
