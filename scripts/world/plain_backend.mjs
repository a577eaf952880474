// A plain Socket.IO 4.8 backend, as far from helpful as a real one can be.
//
// Promises: every connected client gets the `session:ready` that the world asks for, and nothing else is ever
// emitted. Both documented POST routes, and everything else, answer 404.
// The world asks by a line of JSON on standard input, so nobody on the network can.
//
//     node plain_backend.mjs PORT

import { createServer } from "node:http";
import { createInterface } from "node:readline";
import { Server } from "socket.io";

const port = Number(process.argv[2]);

const http = createServer((request, response) => {
  response.writeHead(404, { "content-type": "application/json" });
  response.end('{"error":"Not found"}');
});
// The intervals of the observed backends.
const io = new Server(http, { pingInterval: 25_000, pingTimeout: 60_000, cors: { origin: "*" } });

// Says on standard output how many are listening: what is emitted to nobody is lost.
const count = () => console.log(`clients ${io.engine.clientsCount}`);
io.on("connection", (socket) => {
  count();
  socket.on("disconnect", count);
});

createInterface({ input: process.stdin }).on("line", (line) => {
  io.emit("session:ready", JSON.parse(line));
});

http.listen(port, "127.0.0.1", () => console.log(`listening on ${port}`));
