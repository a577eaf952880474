/* /s/: the lesson that this tab was in, by sessionStorage.pendingSession. */
const go = () => {
  const one = LangDAO.pending();
  if (one) location.replace("/s/" + encodeURIComponent(one.requestId));
};
const button = document.querySelector("#trouble-button");
button.hidden = false;
button.addEventListener("click", go);
go();
