// Sends WebSocket messages and prints what came back as JSON.
// Usage: node websocket.mjs --url ws://HOST/PATH [--proxy URL] [--message TEXT]...
// Through a proxy the opening request travels in absolute form, as for plain HTTP.
import { parseArgs } from "node:util";
import { HttpProxyAgent } from "http-proxy-agent";
import WebSocket from "ws";

const { values } = parseArgs({
  options: {
    url: { type: "string" },
    proxy: { type: "string" },
    message: { type: "string", multiple: true, default: ["hello"] },
  },
});

const agent = values.proxy ? new HttpProxyAgent(values.proxy) : undefined;
const socket = new WebSocket(values.url, { agent, perMessageDeflate: false });
const result = { messages: [], closed: null };
socket.on("open", () => values.message.forEach((message) => socket.send(message)));
socket.on("message", (data) => {
  result.messages.push(data.toString());
  if (result.messages.length === values.message.length) socket.close(1000, "done");
});
socket.on("unexpected-response", (_request, answer) => {
  console.log(JSON.stringify({ error: "refused", status: answer.statusCode }));
  process.exit(1);
});
socket.on("error", (error) => {
  console.log(JSON.stringify({ error: error.code ?? error.name, message: error.message }));
  process.exitCode = 1;
});
socket.on("close", (code) => {
  result.closed = code;
  if (!process.exitCode) console.log(JSON.stringify(result));
});
