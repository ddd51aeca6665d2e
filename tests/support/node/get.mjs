// One HTTP request through Node's own http module and http-proxy-agent; prints the answer as JSON.
// Usage: node get.mjs --url URL [--proxy URL] [--agent http|undici|none] [--method M]
//                     [--header 'name: value']... [--body TEXT | --body-file PATH]
import http from "node:http";
import https from "node:https";
import fs from "node:fs";
import { parseArgs } from "node:util";
import { HttpProxyAgent } from "http-proxy-agent";
import { ProxyAgent, request as undiciRequest } from "undici";

const { values } = parseArgs({
  options: {
    url: { type: "string" },
    proxy: { type: "string" },
    agent: { type: "string", default: "http" },
    method: { type: "string", default: "GET" },
    header: { type: "string", multiple: true, default: [] },
    body: { type: "string" },
    "body-file": { type: "string" },
  },
});

const body = values["body-file"] ? fs.readFileSync(values["body-file"]) : values.body;
const headers = {};
for (const line of values.header) {
  const colon = line.indexOf(":");
  headers[line.slice(0, colon)] = line.slice(colon + 1).trim();
}

function throughHttp() {
  const url = new URL(values.url);
  const agent = values.proxy ? new HttpProxyAgent(values.proxy) : undefined;
  const send = url.protocol === "https:" ? https.request : http.request;
  return new Promise((resolve, reject) => {
    const outgoing = send(url, { method: values.method, headers, agent }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("error", reject);
      answer.on("end", () =>
        resolve({
          status: answer.statusCode,
          headers: answer.headers,
          trailers: answer.trailers,
          body: Buffer.concat(parts).toString("latin1"),
        }),
      );
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

// undici's ProxyAgent tunnels with CONNECT, for http: URLs too unless proxyTunnel is false.
async function throughUndici() {
  const proxied = values.proxy
    ? new ProxyAgent({ uri: values.proxy, proxyTunnel: values.agent === "undici-tunnel" })
    : undefined;
  const answer = await undiciRequest(values.url, {
    method: values.method,
    headers,
    body,
    dispatcher: proxied,
  });
  const text = Buffer.from(await answer.body.arrayBuffer()).toString("latin1");
  await proxied?.close();
  return {
    status: answer.statusCode,
    headers: answer.headers,
    trailers: answer.trailers,
    body: text,
  };
}

try {
  const answer = values.agent.startsWith("undici") ? await throughUndici() : await throughHttp();
  console.log(JSON.stringify(answer));
} catch (error) {
  console.log(JSON.stringify({ error: error.code ?? error.name, message: error.message }));
  process.exitCode = 1;
}
