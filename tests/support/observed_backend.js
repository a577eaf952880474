// The newest observed backend on the wire, by the Socket.IO that it uses: greets, binds pages, relays chat:message, and
// answers a socket's eleventh event in a minute with `error`. Behaviour as in docs/PROTOCOL.md, section 2.2.
"use strict";
const { Server } = require("socket.io");

const EVENTS_A_MINUTE = 10;
const io = new Server(Number(process.argv[2]), { pingInterval: 25000, pingTimeout: 60000, cors: { origin: "*" } });
const pages = new Map(); // address, lower case -> socket id

io.on("connection", (socket) => {
  const said = [];
  const limited = (handle) => (payload) => {
    const now = Date.now();
    while (said.length && now - said[0] >= 60000) said.shift();
    if (said.length >= EVENTS_A_MINUTE) return socket.emit("error", { message: "Rate limit exceeded" });
    said.push(now);
    handle(payload ?? {});
  };
  socket.on("user:connect", limited(({ address }) => {
    socket.address = String(address).toLowerCase();
    pages.set(socket.address, socket.id);
  }));
  socket.on("chat:message", limited((message) => {
    const target = pages.get(String(message.targetAddress).toLowerCase());
    (target ? io.to(target) : io).emit("chat:message", message);
  }));
  socket.on("disconnect", () => pages.get(socket.address) === socket.id && pages.delete(socket.address));
  socket.emit("tutor:available-updated", [{ address: "0x48c8" }]);
  socket.emit("session:ready", { requestId: "req_1", sessionId: "req_1", languageId: 1 });
  socket.emit("session:ended", { sessionId: 5, duration: 62, cost: 0.062, transactionHash: null, endedBy: "system" });
});
